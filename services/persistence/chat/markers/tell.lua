-- Says whether a receipt may be sent now, or notes when it may.
--
-- One that may be sent now is noted, too, for later: should the sender die, another one sends it.
--
-- KEYS: due, sent.
-- ARGV: whose receipt, ms between two of them, ms until another one sends it.
-- Returns the time for which it is noted, in ms; and how long that is from now, or 0 if it may be sent now.
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ms - ARGV[2], 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[2], old)
end
local sent = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or nil)
local waits = sent and sent <= ms and sent + ARGV[2] > ms
local at = waits and sent + ARGV[2] or ms + ARGV[3]
redis.call('ZADD', KEYS[1], string.format('%d', at), ARGV[1])
if not waits then redis.call('ZADD', KEYS[2], string.format('%d', ms), ARGV[1]) end
return {string.format('%d', at), waits and at - ms or 0}
