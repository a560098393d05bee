-- Numbers publications of one channel: each gets the next offset once, whatever is repeated.
-- KEYS: log, meta, then one key per item. ARGV: class, epoch for a new `hot` log (<generation>.<random>) or the life
-- of Redis in which a `stored` channel must have been compared with the store, history_size, history_ttl_s, key_ttl_s,
-- meta_ttl_s, max_unstored, pub/sub channel, then per item: publication id, publication, user and key.
-- Returns per item {status, offset, epoch, stored}; status NEW, KNOWN (key), INIT (compare with the store first), BUSY or
-- STALE (the log is of a later generation); `stored`: readable up to there (hot: the offset itself).
local log, meta = KEYS[1], KEYS[2]
local stored_class = ARGV[1] == 'stored'
local known = redis.call('HMGET', meta, 'epoch', 'top', 'stored', 'life', 'renewed')
local epoch, top, stored, renewed = known[1], tonumber(known[2]), tonumber(known[3]), known[5]
local results = {}
local items = #KEYS - 2
local function generation_of(text) return tonumber(string.match(text or '', '^(%d+)%.')) or -1 end
local function every(status)
  for index = 1, items do results[index] = {status, 0, '', 0} end
  return results
end
if stored_class then
  redis.call('PERSIST', log)
  if not epoch or not stored or known[4] ~= ARGV[2] then return every('INIT') end
else
  local age = generation_of(epoch) - generation_of(ARGV[2])
  if age > 0 then return every('STALE') end
  if age < 0 then
    redis.call('DEL', log, meta)  -- a log may outlive its meta
    if epoch then redis.call('PUBLISH', ARGV[8], 'r' .. ARGV[2]) end
    epoch, top, renewed = ARGV[2], 0, nil
    redis.call('HSET', meta, 'epoch', epoch, 'top', 0)
  end
end
local max_unstored = tonumber(ARGV[7])
local added = 0
for index = 1, items do
  local key, place, position = KEYS[index + 2], epoch .. ' ' .. string.format('%d', top + 1), nil
  local full = stored_class and top - stored >= max_unstored
  if full then
    position = redis.call('GET', key)
  else
    position = redis.call('SET', key, place, 'EX', ARGV[5], 'NX', 'GET')  -- what it was, and set if it was nothing
  end
  local key_epoch, key_offset
  if position then key_epoch, key_offset = string.match(position, '^(%S+) (%d+)$') end
  if key_epoch == epoch then
    results[index] = {'KNOWN', tonumber(key_offset), epoch, stored_class and stored or tonumber(key_offset)}
  elseif full then
    results[index] = {'BUSY', 0, '', 0}
  else
    if position then redis.call('SET', key, place, 'EX', ARGV[5]) end  -- of a log that is gone
    top = top + 1
    added = added + 1
    local id, publication, user_key = ARGV[6 + index * 3], ARGV[7 + index * 3], ARGV[8 + index * 3]
    local offset = string.format('%d', top)
    if stored_class then
      redis.call('XADD', log, offset .. '-0', 'i', id, 'p', publication, 'k', user_key, 'n', key)
    else
      redis.call('XADD', log, 'MAXLEN', ARGV[3], offset .. '-0', 'i', id, 'p', publication)
      redis.call('PUBLISH', ARGV[8], 'p' .. place .. ' ' .. publication)
    end
    results[index] = {'NEW', top, epoch, stored_class and stored or top}
  end
end
if added > 0 then
  local last = string.format('%d', top)
  if stored_class then
    redis.call('HSET', meta, 'top', last)
    return results
  end
  -- Both live for their time from the last publish on, and up to a sixteenth longer: renewing is rare.
  local now = tonumber(redis.call('TIME')[1])
  local spare = math.floor(tonumber(ARGV[4]) / 16)
  local ttl, since = string.match(renewed or '', '^(%d+) (%d+)$')
  since = tonumber(since)
  if ttl == ARGV[4] and now >= since and now - since < spare then
    redis.call('HSET', meta, 'top', last)
  else
    redis.call('HSET', meta, 'top', last, 'renewed', ARGV[4] .. ' ' .. string.format('%d', now))
    redis.call('EXPIRE', log, ARGV[4] + spare)
    redis.call('EXPIRE', meta, ARGV[6] + spare)
  end
end
return results
