-- Moves edges whose lease ran out, and generations that were left long enough ago, to what is to be reaped, and returns
-- all of that. KEYS: as lease.lua.
local now = redis.call('TIME')
local ms = string.format('%d', now[1] * 1000 + math.floor(now[2] / 1000))
for _, edge in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ms)) do
  local generation = redis.call('HGET', KEYS[2], edge)
  if generation then redis.call('SADD', KEYS[3], edge .. ' ' .. generation) end
  redis.call('ZREM', KEYS[1], edge)
end
for _, left in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', ms)) do
  redis.call('SADD', KEYS[3], left)
  redis.call('ZREM', KEYS[5], left)
end
return redis.call('SMEMBERS', KEYS[3])
