#!lua flags=allow-oom
-- Leases letters that are due to the caller. KEYS: letters, due, dead. ARGV: at most so many, lease in ms.
-- Returns {letters that wait or are under way, dead letters, ms until the next one is due (-1: none), the leased letters}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local leased = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local letter = redis.call('HGET', KEYS[1], id)
  if letter then
    leased[#leased + 1] = letter
    redis.call('ZADD', KEYS[2], now + tonumber(ARGV[2]), id)
  else
    redis.call('ZREM', KEYS[2], id)
  end
end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
local wait = first[2] and math.max(0, tonumber(first[2]) - now) or -1
return {redis.call('ZCARD', KEYS[2]), redis.call('ZCARD', KEYS[3]), wait, leased}
