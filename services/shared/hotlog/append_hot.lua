-- Numbers publications of one `hot` channel, keeps them and announces them: each gets the next offset, and its time.
-- KEYS: meta, log, observed, then the key of each item that has one, in order. ARGV: epoch for a new log
-- (<generation>.<random>), history_size, history_ttl_s, key_ttl_s, meta_ttl_s, Unix seconds, pub/sub channel, number of
-- writes that the edge knows of, then per item: publication, and '1' where it has a key, else ''.
-- Returns {epoch, number of writes, per item its offset, negative where an earlier publish under its key had it}; {}: the
-- log is of a later generation, or this Redis lacks writes that the edge knows of, and nothing was done.
local meta, log, fresh = KEYS[1], KEYS[2], ARGV[1]
local writes = tonumber(redis.call('HGET', KEYS[3], 'writes')) or 0
if writes < tonumber(ARGV[8]) then return {} end
local known = redis.call('HMGET', meta, 'epoch', 'top', 'renewed', 'time')
local epoch, top, renewed = known[1], tonumber(known[2]), known[3]
local time, stamped = stamp(known[4])
local generation = string.match(fresh, '^%d+%.')
if not epoch or string.sub(epoch, 1, #generation) ~= generation then
  local age = tonumber(string.match(epoch or '', '^(%d+)%.') or -1) - tonumber(string.match(fresh, '^%d+'))
  if age > 0 then return {} end
  redis.call('DEL', log, meta)  -- a log may outlive its meta
  if epoch then redis.call('PUBLISH', ARGV[7], 'r' .. fresh) end
  epoch, top, renewed = fresh, 0, nil
  redis.call('HSET', meta, 'epoch', epoch, 'top', 0, 'time', known[4] or 0)
end
local results, before, next_key = {epoch, writes}, top, 4
for index = 9, #ARGV, 2 do
  local offset, key_offset = string.format('%d', top + 1), nil
  if ARGV[index + 1] ~= '' then
    local key, place = KEYS[next_key], epoch .. ' ' .. offset
    next_key = next_key + 1
    local position = redis.call('SET', key, place, 'EX', ARGV[4], 'NX', 'GET')  -- what it was; set if it was nothing
    if position then
      local key_epoch, found = string.match(position, '^(%S+) (%d+)$')
      if key_epoch == epoch then
        key_offset = tonumber(found)
      else
        redis.call('SET', key, place, 'EX', ARGV[4])  -- of a log that is gone
      end
    end
  end
  if key_offset then
    results[#results + 1] = -key_offset
  else
    top = top + 1
    local publication = ARGV[index] .. stamped
    redis.call('XADD', log, 'MAXLEN', ARGV[2], offset .. '-0', 'p', publication)
    redis.call('PUBLISH', ARGV[7], 'p' .. epoch .. ' ' .. offset .. ' ' .. publication)
    results[#results + 1] = top
  end
end
if top > before then
  results[2] = writes + 1
  redis.call('HSET', KEYS[3], 'writes', string.format('%d', writes + 1))
  -- Both live for their time from the last publish on, and up to a sixteenth longer: renewing is rare.
  local last, now, spare = string.format('%d', top), tonumber(ARGV[6]), math.floor(tonumber(ARGV[3]) / 16)
  local ttl, since = string.match(renewed or '', '^(%d+) (%d+)$')
  since = tonumber(since)
  if ttl == ARGV[3] and now >= since and now - since < spare then
    redis.call('HSET', meta, 'top', last, 'time', time)
  else
    redis.call('HSET', meta, 'top', last, 'time', time, 'renewed', ARGV[3] .. ' ' .. ARGV[6])
    redis.call('EXPIRE', log, ARGV[3] + spare)
    redis.call('EXPIRE', meta, ARGV[5] + spare)
  end
end
return results
