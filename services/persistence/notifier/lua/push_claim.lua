#!lua flags=allow-oom
-- Leases to the caller what is due. KEYS: sorted set of names by Unix ms. ARGV: at most so many, lease in ms.
-- Returns {how many there are, how long the first one has been due in ms, names …}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', 0, ARGV[1])
local found = {redis.call('ZCARD', KEYS[1]), due[2] and now - tonumber(due[2]) or 0}
for at = 1, #due, 2 do
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), due[at])
  found[#found + 1] = due[at]
end
return found
