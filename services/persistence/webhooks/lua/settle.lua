-- Says what became of a letter. KEYS: letters, due, dead, owners.
-- ARGV: id, 'done' | 'again' | 'dead', the letter with what is known now, ms until it is due, most dead letters, owner,
-- most dead letters of an owner.
-- Returns how many old dead letters were dropped to make room. A letter that is gone, or dead already, stays so.
local id, outcome = ARGV[1], ARGV[2]
if not redis.call('ZSCORE', KEYS[2], id) then return 0 end
if outcome == 'done' then
  redis.call('ZREM', KEYS[2], id)
  redis.call('HDEL', KEYS[1], id)
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], id, ARGV[3])
if outcome == 'again' then
  redis.call('ZADD', KEYS[2], now + tonumber(ARGV[4]), id)
  return 0
end
redis.call('ZREM', KEYS[2], id)
redis.call('ZADD', KEYS[3], now, id)
local owner, dropped = ARGV[6], 0
if owner ~= '' then
  local ids = owned(owner)
  ids[#ids + 1] = id
  while #ids > tonumber(ARGV[7]) do
    local old = table.remove(ids, 1)
    redis.call('HDEL', KEYS[1], old)
    redis.call('ZREM', KEYS[3], old)
    dropped = dropped + 1
  end
  own(owner, ids)
end
local over = redis.call('ZCARD', KEYS[3]) - tonumber(ARGV[5])
if over <= 0 then return dropped end
for _, old in ipairs(redis.call('ZRANGE', KEYS[3], 0, over - 1)) do
  local letter = redis.call('HGET', KEYS[1], old)
  disown(letter and cjson.decode(letter).owner or '', old)
  redis.call('HDEL', KEYS[1], old)
  redis.call('ZREM', KEYS[3], old)
end
return dropped + over
