-- Marks a user's list as changing. Each change has a mark of its own, in a field.
--
-- KEYS: list.
-- ARGV: mark, seconds for which all marks of the list are good from now on.
-- Returns 1.
redis.call('HDEL', KEYS[1], 'd')
redis.call('HSET', KEYS[1], 'v', '!', 'm' .. ARGV[1], '')
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
