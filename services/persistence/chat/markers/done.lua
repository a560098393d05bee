-- Removes receipts that were sent.
--
-- If another process has noted or sent the same meanwhile, this one may have sent an older marker behind a newer one.
-- Then it is sent once more.
--
-- KEYS: due, sent.
-- ARGV: ms between two receipts of one user; then whose receipt, the time for which it was noted, …
-- Returns how many are sent once more.
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local again = 0
for index = 2, #ARGV, 2 do
  if redis.call('ZSCORE', KEYS[1], ARGV[index]) == ARGV[index + 1] then
    redis.call('ZREM', KEYS[1], ARGV[index])
  else
    redis.call('ZADD', KEYS[1], string.format('%d', ms + ARGV[1]), ARGV[index])
    again = again + 1
  end
end
return again
