-- The store is ahead of Redis: what Redis numbered above its own `stored` was never acknowledged and goes.
-- KEYS: log, meta, then keys to forget, then keys to remember. ARGV: epoch, top of the store, life,
-- number of keys to forget, then per key to remember: position, ttl_s. Returns 1 if anything changed.
local known = redis.call('HMGET', KEYS[2], 'epoch', 'stored', 'top')
local changed = 0
local forget = tonumber(ARGV[4])
for index = 3, 2 + forget do redis.call('DEL', KEYS[index]) end
for index = 3 + forget, #KEYS do
  local at = 5 + (index - 3 - forget) * 2
  redis.call('SET', KEYS[index], ARGV[at], 'EX', ARGV[at + 1])
end
if known[1] == ARGV[1] and known[2] and tonumber(known[2]) >= tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[2], 'life', ARGV[3])
  local first = string.format('%d-0', tonumber(known[2]) + 1)
  local unstored = redis.call('XRANGE', KEYS[1], first, '+')
  if #unstored == tonumber(known[3]) - tonumber(known[2]) then return 0 end
  -- Of what was numbered and not stored, something is not there: none of it was acknowledged, and it goes.
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[2], 'top', known[2])
  return 1
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[2], 'epoch', ARGV[1], 'top', ARGV[2], 'stored', ARGV[2], 'life', ARGV[3])
return 1
