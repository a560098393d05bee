-- Marks a user's list as changing. Each change has a mark of its own, in a field.
--
-- KEYS: list, conversations that the user has no more.
-- ARGV: mark, seconds for which all marks of the list are good from now on; if the user has a conversation no more also this,
--   the time and how long that is remembered, both in ms.
-- Returns 1.
redis.call('HDEL', KEYS[1], 'd')
redis.call('HSET', KEYS[1], 'v', '!', 'm' .. ARGV[1], '')
redis.call('EXPIRE', KEYS[1], ARGV[2])
if ARGV[3] then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%d', ARGV[4] - ARGV[5]))
  redis.call('ZADD', KEYS[2], 'GT', ARGV[4], ARGV[3])
  redis.call('PEXPIRE', KEYS[2], ARGV[5])
end
return 1
