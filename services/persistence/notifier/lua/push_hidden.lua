#!lua flags=allow-oom
-- Forgets what a user does not see any more, or looks again later. KEYS: watch, shown. ARGV: channel, user, what is
-- kept of it, ms until the next look (-1: forget it), what is kept then. What came meanwhile stays, and is due at once.
local name = ARGV[1] .. ' ' .. ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local kept = redis.call('HGET', KEYS[2], ARGV[2])
if kept and kept ~= ARGV[3] then
  redis.call('ZADD', KEYS[1], now, name)
  return 0
end
if kept and tonumber(ARGV[4]) >= 0 then
  redis.call('HSET', KEYS[2], ARGV[2], ARGV[5])
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[4]), name)
  return 0
end
redis.call('ZREM', KEYS[1], name)
redis.call('HDEL', KEYS[2], ARGV[2])
return 1
