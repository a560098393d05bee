-- Counts a write to logs that no store has yet, before it is acknowledged.
--
-- KEYS: observed.
-- ARGV: number of writes that the caller has seen.
-- Returns the number of writes; 0 if this Redis has counted fewer than the caller has seen, and nothing was done.
local writes = redis.call('HINCRBY', KEYS[1], 'writes', 1)
if writes > tonumber(ARGV[1]) then return writes end
redis.call('HINCRBY', KEYS[1], 'writes', -1)
return 0
