-- Returns 1 if a user has a client in a channel; else takes the channel off the user's list. KEYS: users of the roster,
-- channels of the user. ARGV: user, channel.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 1 end
redis.call('ZREM', KEYS[2], ARGV[2])
return 0
