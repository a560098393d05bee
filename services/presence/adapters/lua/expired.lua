-- Moves edges whose lease ran out, and generations that were left long enough ago, to what is to be reaped, and returns
-- all of that. KEYS: as lease.lua. ARGV: ms that a look may lie behind the last one.
tick(ARGV[1])
local now = string.format('%d', ms)
for _, edge in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. now)) do
  local generation = redis.call('HGET', KEYS[2], edge)
  if generation then redis.call('SADD', KEYS[3], edge .. ' ' .. generation) end
  redis.call('ZREM', KEYS[1], edge)
end
for _, left in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now)) do
  redis.call('SADD', KEYS[3], left)
  redis.call('ZREM', KEYS[5], left)
end
return redis.call('SMEMBERS', KEYS[3])
