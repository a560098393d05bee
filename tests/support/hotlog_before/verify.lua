#!lua flags=allow-oom
-- Notes that a `stored` channel was compared with the store in this incarnation, if Redis has what the store has.
--
-- KEYS: meta.
-- ARGV: epoch, top of the store, token of the incarnation, 1 if Redis may have more.
-- Returns 1 if it was noted, 0 if Redis is behind, -1 if there is no meta, 2 if Redis has more.
local known = redis.call('HMGET', KEYS[1], 'epoch', 'stored')
if not known[1] or not known[2] then return -1 end
if known[1] ~= ARGV[1] or tonumber(known[2]) < tonumber(ARGV[2]) then return 0 end
if tonumber(known[2]) > tonumber(ARGV[2]) and ARGV[4] ~= '1' then return 2 end
redis.call('HSET', KEYS[1], 'life', ARGV[3])
return 1
