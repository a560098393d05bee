-- Notes that a `stored` channel was compared with the store in this life of Redis, if it holds what the store has.
-- KEYS: meta. ARGV: epoch, top of the store, life. Returns 1 if so, 0 if it is behind, -1 if there is no meta.
local known = redis.call('HMGET', KEYS[1], 'epoch', 'stored')
if not known[1] or not known[2] then return -1 end
if known[1] ~= ARGV[1] or tonumber(known[2]) < tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'life', ARGV[3])
return 1
