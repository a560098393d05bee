-- Puts some clients of a roster in order, or takes those out who are not on the roster. KEYS: roster, order. ARGV: 'add' or
-- 'clean', cursor of the scan, how many about. Returns the next cursor.
if ARGV[1] == 'add' then
  local page = redis.call('HSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
  for at = 1, #page[2], 2 do redis.call('ZADD', KEYS[2], 0, page[2][at]) end
  return page[1]
end
local page = redis.call('ZSCAN', KEYS[2], ARGV[2], 'COUNT', ARGV[3])
for at = 1, #page[2], 2 do
  if redis.call('HEXISTS', KEYS[1], page[2][at]) == 0 then redis.call('ZREM', KEYS[2], page[2][at]) end
end
return page[1]
