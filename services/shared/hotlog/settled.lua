-- Channels marked for longer than a while, with their marks. KEYS: dirty set. ARGV: age_ms, at most so many.
local now = redis.call('TIME')
local upto = now[1] * 1000 + math.floor(now[2] / 1000) - tonumber(ARGV[1])
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', upto), 'WITHSCORES', 'LIMIT', 0, ARGV[2])
