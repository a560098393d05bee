-- Drops what readers may read of a `stored` channel up to an offset; what is numbered and not stored yet stays.
-- KEYS: log, meta. ARGV: offset.
local stored = tonumber(redis.call('HGET', KEYS[2], 'stored'))
if stored then
  redis.call('XTRIM', KEYS[1], 'MINID', string.format('%d-0', math.min(stored, tonumber(ARGV[1])) + 1))
end
return 1
