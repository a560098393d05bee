-- Deletes readable entries of a `stored` channel up to an offset; those not stored yet stay.
--
-- KEYS: log, meta.
-- ARGV: offset.
local stored = tonumber(redis.call('HGET', KEYS[2], 'stored'))
if stored then
  redis.call('XTRIM', KEYS[1], 'MINID', string.format('%d-0', math.min(stored, tonumber(ARGV[1])) + 1))
end
return 1
