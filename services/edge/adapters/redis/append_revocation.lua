-- Appends an entry to the list of revocations. KEYS: the list, a stream. ARGV: entry, until when it is kept (Unix
-- seconds). Each time the two oldest entries are looked at: one whose time is over, or that has none, goes; any other
-- goes to the end again. So the list has little more than what is kept, although only its oldest entries can be removed.
local now = tonumber(redis.call('TIME')[1])
for _ = 1, 2 do
  local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  if not oldest then break end
  local fields = oldest[2]
  if (tonumber(fields[4]) or 0) > now then redis.call('XADD', KEYS[1], '*', fields[1], fields[2], fields[3], fields[4]) end
  local ms, number = string.match(oldest[1], '^(%d+)-(%d+)$')
  redis.call('XTRIM', KEYS[1], 'MINID', '=', ms .. '-' .. string.format('%d', tonumber(number) + 1))
end
return redis.call('XADD', KEYS[1], '*', 'entry', ARGV[1], 'until', ARGV[2])
