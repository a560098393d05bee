-- Deletes readable entries of a `stored` channel up to an offset, and notes that; those not stored yet stay.
--
-- KEYS: log, meta, head of a conversation, which has one of them.
-- ARGV: offset, and as of erase.lua: most readable entries that stay if any were deleted, most entries that one call
--   handles, most bytes of either. If more are not readable, bytes of what was deleted may be left until the next call.
redis.call('DEL', KEYS[3])
local known = redis.call('HMGET', KEYS[2], 'stored', 'unclean', 'removed')
local stored = tonumber(known[1])
if stored then
  local oldest = math.min(stored, tonumber(ARGV[1])) + 1
  if oldest - 1 > (tonumber(known[3]) or 0) then redis.call('HSET', KEYS[2], 'removed', string.format('%d', oldest - 1)) end
  local gone = redis.call('XTRIM', KEYS[1], 'MINID', string.format('%d-0', oldest))
  if gone > 0 or known[2] == '1' or has_bytes(oldest_of(KEYS[1]), oldest - 1) then
    local written = rebuild(KEYS[1], stored, {}, tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]))
    redis.call('HSET', KEYS[2], 'unclean', written and 0 or 1)
  end
end
return 1
