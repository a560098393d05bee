-- Brings the meta of a `stored` channel, and its recent keys, from the store; only if Redis has no meta.
--
-- KEYS: log, meta, then one idempotency key per position.
-- ARGV: epoch, top, token of the incarnation, time of the newest publication (Unix ms), then per key: position, ttl_s.
-- Returns 1 if it was written.
local known = redis.call('HMGET', KEYS[2], 'epoch', 'stored')
if known[1] and known[2] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[2], 'epoch', ARGV[1], 'top', ARGV[2], 'stored', ARGV[2], 'life', ARGV[3], 'time', ARGV[4])
redis.call('PERSIST', KEYS[2])
for index = 3, #KEYS do
  redis.call('SET', KEYS[index], ARGV[index * 2 - 1], 'EX', ARGV[index * 2], 'NX')
end
return 1
