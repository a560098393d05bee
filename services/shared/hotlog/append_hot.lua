-- Numbers publications of `hot` channels with their time, keeps them and publishes them.
--
-- KEYS: observed, appends of this edge, then per channel its meta, its log, and the idempotency keys of those of its
--   items that have one, in order. Then, per channel that the feed tells of, its stream of the feed.
-- ARGV: epoch for a new log (<generation>.<random>), key_ttl_s, meta_ttl_s, Unix seconds, number of writes that the
--   edge has seen, highest number that it knows of its own calls, then per channel: pub/sub channel, history_size,
--   history_ttl_s, number of items, number of items with a key, and per item: publication, and '1' if it has a key,
--   else ''. Then, if the feed tells of any channel: '', entries that a stream keeps, and per such channel: its place
--   among the channels, from 1, its name, number of items, and per item its author.
-- Returns {number of writes, number of this call among those of the edge, per channel {epoch, per item its offset,
--   negative if an earlier publish with the key has it}}. A channel has {} if its log is of a later generation, and an
--   error if a command failed. Instead of all that {} if this Redis has counted fewer writes, or fewer calls of the
--   edge, than the edge has seen; then nothing was done.
local fresh, key_ttl, meta_ttl, now = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
-- Both are counted before they are compared, which saves reading them: a Redis that has lost something is rare.
local writes, number = redis.call('HINCRBY', KEYS[1], 'writes', 1), redis.call('HINCRBY', KEYS[2], 'n', 1)
if writes <= tonumber(ARGV[5]) or number <= tonumber(ARGV[6]) then
  redis.call('HINCRBY', KEYS[1], 'writes', -1)
  redis.call('HINCRBY', KEYS[2], 'n', -1)
  return {}
end
local generation = string.match(fresh, '^%d+%.')

local function append(first_key, first, items)
  local meta, log, channel = KEYS[first_key], KEYS[first_key + 1], ARGV[first]
  local size, history_ttl, next_key = ARGV[first + 1], ARGV[first + 2], first_key + 2
  local known = redis.call('HMGET', meta, 'epoch', 'top', 'renewed', 'time')
  local epoch, top, renewed = known[1], tonumber(known[2]), known[3]
  local time, stamped = stamp(known[4])
  if not epoch or string.sub(epoch, 1, #generation) ~= generation then
    local age = tonumber(string.match(epoch or '', '^(%d+)%.') or -1) - tonumber(string.match(fresh, '^%d+'))
    if age > 0 then return {} end
    redis.call('DEL', log, meta)  -- a log may outlive its meta
    if epoch then redis.call('PUBLISH', channel, 'r' .. fresh) end
    epoch, top, renewed = fresh, 0, nil
    redis.call('HSET', meta, 'epoch', epoch, 'top', 0, 'time', known[4] or 0)
  end
  local results, before = {epoch}, top
  for index = first + 5, first + 3 + 2 * items, 2 do
    local offset, key_offset = string.format('%d', top + 1), nil
    if ARGV[index + 1] ~= '' then
      local key, place = KEYS[next_key], epoch .. ' ' .. offset
      next_key = next_key + 1
      local position = redis.call('SET', key, place, 'EX', key_ttl, 'NX', 'GET')  -- what it was; set if it was nothing
      if position then
        local key_epoch, found = string.match(position, '^(%S+) (%d+)$')
        if key_epoch == epoch then
          key_offset = tonumber(found)
        else
          redis.call('SET', key, place, 'EX', key_ttl)  -- of a log that is gone
        end
      end
    end
    if key_offset then
      results[#results + 1] = -key_offset
    else
      top = top + 1
      local publication = ARGV[index] .. stamped
      redis.call('XADD', log, 'MAXLEN', size, offset .. '-0', 'p', publication)
      redis.call('PUBLISH', channel, 'p' .. epoch .. ' ' .. offset .. ' ' .. publication)
      results[#results + 1] = top
    end
  end
  if top > before then
    -- Both live for their time from the last publish on, and up to a sixteenth longer: renewing is rare.
    local last, spare = string.format('%d', top), math.floor(tonumber(history_ttl) / 16)
    local ttl, since = string.match(renewed or '', '^(%d+) (%d+)$')
    since = tonumber(since)
    if ttl == history_ttl and now >= since and now - since < spare then
      redis.call('HSET', meta, 'top', last, 'time', time)
    else
      redis.call('HSET', meta, 'top', last, 'time', time, 'renewed', history_ttl .. ' ' .. ARGV[4])
      redis.call('EXPIRE', log, history_ttl + spare)
      redis.call('EXPIRE', meta, meta_ttl + spare)
    end
  end
  return results
end

local results, next_key, next_argument = {writes, number}, 3, 7
while next_argument <= #ARGV and ARGV[next_argument] ~= '' do
  local items, keyed = tonumber(ARGV[next_argument + 3]), tonumber(ARGV[next_argument + 4])
  local _, found = pcall(append, next_key, next_argument, items)  -- a channel that fails fails alone
  results[#results + 1] = type(found) == 'table' and found or {err = found}
  next_key, next_argument = next_key + 2 + keyed, next_argument + 5 + 2 * items
end
-- The feed: services/shared/feed/events.py has the fields.
local most = ARGV[next_argument + 1]
next_argument = next_argument + 2
while next_argument <= #ARGV do
  local result, items = results[2 + ARGV[next_argument]], tonumber(ARGV[next_argument + 2])
  for index = 2, #result do  -- nothing, if the channel failed
    if result[index] > 0 then
      redis.call('XADD', KEYS[next_key], 'MAXLEN', '~', most, '*', 'c', ARGV[next_argument + 1], 'e', result[1],
        'o', result[index], 'a', ARGV[next_argument + 1 + index])
    end
  end
  next_key, next_argument = next_key + 1, next_argument + 3 + items
end
return results
