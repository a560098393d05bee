-- Renews the lease of an edge, or ends it, by the clock of Redis.
-- KEYS: lease
-- ARGV: how long the lease is good from now on, ms (0: it ends now); how long it is kept, s
-- Returns the time, Unix ms.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', KEYS[1], string.format('%.0f %.0f', now, now + ARGV[1]), 'EX', ARGV[2])
return now
