-- Numbers publications of one channel: each gets the next offset once, whatever is repeated.
-- KEYS: log, meta, then one key per item. ARGV: class, epoch for a new `hot` log (<generation>.<random>) or the life
-- of Redis in which a `stored` channel must have been compared with the store, history_size, history_ttl_s, key_ttl_s,
-- meta_ttl_s, max_unstored, pub/sub channel, then per item: publication id, publication, user and key.
-- Returns per item {status, offset, epoch, stored}; status NEW, KNOWN (key), INIT (compare with the store first), BUSY or
-- STALE (the log is of a later generation); `stored`: readable up to there (hot: the offset itself).
local log, meta = KEYS[1], KEYS[2]
local stored_class = ARGV[1] == 'stored'
local known = redis.call('HMGET', meta, 'epoch', 'top', 'stored', 'life')
local epoch, top, stored = known[1], tonumber(known[2]), tonumber(known[3])
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
    epoch, top = ARGV[2], 0
    redis.call('HSET', meta, 'epoch', epoch, 'top', 0)
  end
end
local max_unstored = tonumber(ARGV[7])
local added = 0
for index = 1, items do
  local position = redis.call('GET', KEYS[index + 2])
  local key_epoch, key_offset
  if position then key_epoch, key_offset = string.match(position, '^(%S+) (%d+)$') end
  if key_epoch == epoch then
    results[index] = {'KNOWN', tonumber(key_offset), epoch, stored_class and stored or tonumber(key_offset)}
  elseif stored_class and top - stored >= max_unstored then
    results[index] = {'BUSY', 0, '', 0}
  else
    top = top + 1
    added = added + 1
    local id, publication, key = ARGV[6 + index * 3], ARGV[7 + index * 3], ARGV[8 + index * 3]
    if stored_class then
      redis.call('XADD', log, string.format('%d-0', top), 'i', id, 'p', publication, 'k', key, 'n', KEYS[index + 2])
    else
      redis.call('XADD', log, string.format('%d-0', top), 'i', id, 'p', publication)
    end
    redis.call('SET', KEYS[index + 2], epoch .. ' ' .. string.format('%d', top), 'EX', ARGV[5])
    if not stored_class then
      redis.call('PUBLISH', ARGV[8], 'p' .. epoch .. ' ' .. string.format('%d', top) .. ' ' .. publication)
    end
    results[index] = {'NEW', top, epoch, stored_class and stored or top}
  end
end
if added > 0 then
  redis.call('HSET', meta, 'top', string.format('%d', top))
  if not stored_class then
    redis.call('XTRIM', log, 'MAXLEN', ARGV[3])
    redis.call('EXPIRE', log, ARGV[4])
    redis.call('EXPIRE', meta, ARGV[6])
  end
end
return results
