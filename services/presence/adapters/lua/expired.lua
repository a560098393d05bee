-- Moves edges whose lease ran out to what is to be reaped, and returns all of that. KEYS: as lease.lua.
local now = redis.call('TIME')
local ms = string.format('%d', now[1] * 1000 + math.floor(now[2] / 1000))
for _, edge in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ms)) do
  local generation = redis.call('HGET', KEYS[2], edge)
  if generation then redis.call('SADD', KEYS[3], edge .. ' ' .. generation) end
  redis.call('ZREM', KEYS[1], edge)
end
return redis.call('SMEMBERS', KEYS[3])
