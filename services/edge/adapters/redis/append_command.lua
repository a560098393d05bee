-- Appends a control command to the control log and publishes it. KEYS: the log, a stream. ARGV: pub/sub channel, command,
-- how many commands are kept, and for how long (ms). Returns how many edges it was delivered to.
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local previous = newest and newest[1] or '0-0'
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'previous', previous, 'order', ARGV[2])
local oldest = tonumber(string.match(id, '^%d+')) - tonumber(ARGV[4])
redis.call('XTRIM', KEYS[1], 'MINID', '~', string.format('%d', math.max(0, oldest)))
return redis.call('PUBLISH', ARGV[1], 'o' .. id .. ' ' .. previous .. ' ' .. ARGV[2])
