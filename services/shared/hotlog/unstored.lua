-- Returns a page of the entries of a `stored` channel that are not stored, as far as Redis knows.
--
-- KEYS: log, meta.
-- ARGV: most entries, most bytes (the entry that reaches it is the last one), offset behind which the page begins (at the
--   earliest behind what is stored), 'r' for the newest readable ones, newest first: then the offset is the one below
--   which it begins, 0: the readable top.
-- Returns {epoch, up to where it is stored, entries, token of the incarnation in which it was compared, readable top, top,
--   1 if anything of the channel was ever numbered that may become readable before it is stored, else 0}; {} if there is no
--   meta.
local known = redis.call('HMGET', KEYS[2], 'epoch', 'stored', 'life', 'shown', 'top', 'lives')
if not known[1] or not known[2] then return {} end
local stored, most, left, at = tonumber(known[2]), tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local readable, entries, reverse = math.max(stored, tonumber(known[4]) or 0), {}, ARGV[4] == 'r'
local low, high = math.max(stored, reverse and 0 or at) + 1, reverse and (at > 0 and math.min(at - 1, readable) or readable)
while #entries < most and left > 0 do
  local count, some = math.min(64, most - #entries), nil
  if reverse then
    some = redis.call('XREVRANGE', KEYS[1], string.format('%d-0', high), string.format('%d-0', low), 'COUNT', count)
  else
    some = redis.call('XRANGE', KEYS[1], string.format('%d-0', low), '+', 'COUNT', count)
  end
  for _, entry in ipairs(some) do
    if left <= 0 then break end
    entries[#entries + 1] = entry
    left = left - #entry[2][4]
  end
  if #some < count then break end
  local last = tonumber(string.match(some[#some][1], '^%d+'))
  low, high = reverse and low or last + 1, last - 1
end
return {known[1], stored, entries, known[3] or '', readable, tonumber(known[5]) or stored,
  (known[4] or known[6]) and 1 or 0}
