-- Takes receipts that are due; they stay noted for later until they are sent.
--
-- KEYS: due, sent.
-- ARGV: ms between two receipts of one user, ms until another one sends what was taken, most receipts.
-- Returns whose receipts they are, each with the time for which it is noted.
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local taken = {}
for _, one in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', ms), 'LIMIT', 0, ARGV[3])) do
  local sent = tonumber(redis.call('ZSCORE', KEYS[2], one) or nil)
  if sent and sent <= ms and sent + ARGV[1] > ms then
    redis.call('ZADD', KEYS[1], string.format('%d', sent + ARGV[1]), one)
  else
    local at = string.format('%d', ms + ARGV[2])
    redis.call('ZADD', KEYS[1], at, one)
    redis.call('ZADD', KEYS[2], string.format('%d', ms), one)
    taken[#taken + 1] = one
    taken[#taken + 1] = at
  end
end
return taken
