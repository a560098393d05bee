-- Keeps a user's list, unless it changed since the token was given.
--
-- KEYS: list.
-- ARGV: token, list, ttl_s (0: as it is).
-- Returns 1 if it is kept.
if redis.call('HGET', KEYS[1], 'v') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'd', ARGV[2])
if ARGV[3] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
return 1
