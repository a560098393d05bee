-- Brings the meta of a `stored` channel, and the keys of its last publications, from the store; only if absent.
-- KEYS: log, meta, then one key per position. ARGV: epoch, top, life, time of the newest publication in ms, then per key:
-- position, ttl_s. Returns 1 if written.
local known = redis.call('HMGET', KEYS[2], 'epoch', 'stored')
if known[1] and known[2] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[2], 'epoch', ARGV[1], 'top', ARGV[2], 'stored', ARGV[2], 'life', ARGV[3], 'time', ARGV[4])
redis.call('PERSIST', KEYS[2])
for index = 3, #KEYS do
  redis.call('SET', KEYS[index], ARGV[index * 2 - 1], 'EX', ARGV[index * 2], 'NX')
end
return 1
