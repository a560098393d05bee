-- Starts a `hot` log over with a new epoch, if it still has the old one.
--
-- KEYS: log, meta, observed.
-- ARGV: old epoch, new epoch, meta_ttl_s, pub/sub channel.
-- Returns 1 if it did.
if redis.call('HGET', KEYS[2], 'epoch') ~= ARGV[1] then return 0 end
local time = redis.call('HGET', KEYS[2], 'time')
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[2], 'epoch', ARGV[2], 'top', 0, 'time', time or 0)
redis.call('EXPIRE', KEYS[2], ARGV[3])
redis.call('HINCRBY', KEYS[3], 'writes', 1)  -- a Redis that goes back behind this has the old epoch again
redis.call('PUBLISH', ARGV[4], 'r' .. ARGV[2])
return 1
