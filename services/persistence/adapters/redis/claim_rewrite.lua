-- Lets one caller rewrite the append-only file, if that is due.
--
-- KEYS: erasures.
-- ARGV: now (Unix ms), age of an erasure at which it is due (ms), least time between two rewrites (ms).
-- Returns 1 to who is to rewrite it.
local known = redis.call('HMGET', KEYS[1], 'since', 'covers', 'begun')
local now, since, covers, begun = tonumber(ARGV[1]), tonumber(known[1]), tonumber(known[2]), tonumber(known[3]) or 0
local oldest = math.min(since or math.huge, covers or math.huge)
if now - oldest < tonumber(ARGV[2]) or (begun <= now and now - begun < tonumber(ARGV[3])) then return 0 end
redis.call('HSET', KEYS[1], 'covers', string.format('%d', oldest), 'begun', ARGV[1])
redis.call('HDEL', KEYS[1], 'since', 'run')
return 1
