-- Returns dirty channels that were marked before a time, or in the future (the clock was set back), with their marks.
--
-- KEYS: dirty.
-- ARGV: age in ms, most channels of either kind; number of the oldest ones that are left out (0 without it).
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local upto = string.format('%d', ms - tonumber(ARGV[1]))
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', upto, 'WITHSCORES', 'LIMIT', ARGV[3] or 0, ARGV[2])
local future = string.format('%d', ms + 1000)
for _, one in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], future, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])) do
  found[#found + 1] = one
end
return found
