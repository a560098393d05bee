-- Notes that something was erased, so that the append-only file of Redis is rewritten.
--
-- KEYS: erasures.
-- Returns 1 if nothing was noted yet.
if redis.call('HGET', KEYS[1], 'since') then return 0 end
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], 'since', string.format('%d', now[1] * 1000 + math.floor(now[2] / 1000)))
return 1
