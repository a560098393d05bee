#!lua flags=allow-oom
-- Lets Redis forget a `stored` channel after a time without publications; persistence brings it back from the store.
-- Only while all of it is stored.
--
-- KEYS: meta, log.
-- ARGV: ttl_s, ttl_s of a channel that never had a publication.
-- Returns 1 if it may be forgotten.
local known = redis.call('HMGET', KEYS[1], 'top', 'stored')
if not known[2] or known[1] ~= known[2] then return 0 end
local ttl = tonumber(known[1]) == 0 and ARGV[2] or ARGV[1]
redis.call('HSET', KEYS[1], 'rests', 1)  -- the next append makes it stay
redis.call('EXPIRE', KEYS[1], math.max(tonumber(ttl), redis.call('TTL', KEYS[2])))  -- not before its log
return 1
