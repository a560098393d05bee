-- The store is ahead of Redis: what Redis numbered above its own `stored` was never acknowledged and goes.
-- KEYS: log, meta, then keys to forget, then keys to remember. ARGV: epoch, top of the store, life,
-- number of keys to forget, then per key to remember: position, ttl_s. Returns 1 if anything changed.
local known = redis.call('HMGET', KEYS[2], 'epoch', 'stored')
local changed = 0
local forget = tonumber(ARGV[4])
for index = 3, 2 + forget do redis.call('DEL', KEYS[index]) end
for index = 3 + forget, #KEYS do
  local at = 5 + (index - 3 - forget) * 2
  redis.call('SET', KEYS[index], ARGV[at], 'EX', ARGV[at + 1])
end
if known[1] == ARGV[1] and known[2] and tonumber(known[2]) >= tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[2], 'life', ARGV[3])
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[2], 'epoch', ARGV[1], 'top', ARGV[2], 'stored', ARGV[2], 'life', ARGV[3])
return 1
