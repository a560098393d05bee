-- Channels marked for longer than a while, or in a future (the clock was set back), with their marks.
-- KEYS: dirty set. ARGV: age_ms, at most so many.
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local upto = string.format('%d', ms - tonumber(ARGV[1]))
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', upto, 'WITHSCORES', 'LIMIT', 0, ARGV[2])
local future = string.format('%d', ms + 1000)
for _, one in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], future, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])) do
  found[#found + 1] = one
end
return found
