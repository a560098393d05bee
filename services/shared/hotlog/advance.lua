-- The store is ahead of Redis: what Redis numbered above its own `stored` was never acknowledged and goes.
-- KEYS: log, meta. ARGV: epoch, top of the store. Returns 1 if anything changed.
local known = redis.call('HMGET', KEYS[2], 'epoch', 'top', 'stored')
if not known[3] then return 0 end
if known[1] == ARGV[1] and tonumber(known[3]) >= tonumber(ARGV[2]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[2], 'epoch', ARGV[1], 'top', ARGV[2], 'stored', ARGV[2])
return 1
