-- Reads one page of a log, never beyond what is readable.
--
-- KEYS: log, meta, observed.
-- ARGV: `hot` or `stored`, since offset, limit, 1 for reverse, generation (`hot`) or token of the incarnation
--   (`stored`), bytes beyond which nothing more is read (looked at after every 128 entries), number of writes that the
--   caller has seen.
-- Returns {epoch, top, entries}; {} if there is no such log, or if this Redis has fewer writes.
if (tonumber(redis.call('HGET', KEYS[3], 'writes')) or 0) < tonumber(ARGV[7]) then return {} end
local known = redis.call('HMGET', KEYS[2], 'epoch', 'top', 'stored', 'life', 'shown')
local stored = ARGV[1] == 'stored'
local top = tonumber(stored and known[3] or known[2])
if stored and top then top = math.max(top, tonumber(known[5]) or 0) end  -- readable before it is stored
if not known[1] or not top then return {} end
if stored and known[4] ~= ARGV[5] then return {} end
if not stored and string.match(known[1], '^(%d+)%.') ~= ARGV[5] then return {} end
local since, left, bytes, entries = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[6]), {}
local reverse = ARGV[4] == '1'
local from = since + 1
if reverse then from = (since == 0 or since > top) and top or since - 1 end
while left > 0 and bytes >= 0 and from > 0 and from <= top do
  local count, page = math.min(left, 128)
  local start = string.format('%d-0', from)
  if reverse then
    page = redis.call('XREVRANGE', KEYS[1], start, '-', 'COUNT', count)
  else
    page = redis.call('XRANGE', KEYS[1], start, string.format('%d-0', top), 'COUNT', count)
  end
  for _, entry in ipairs(page) do
    entries[#entries + 1] = entry
    bytes = bytes - #entry[2][stored and 4 or 2]
  end
  if #page < count then break end
  left = left - count
  from = tonumber(string.match(page[#page][1], '^%d+')) + (reverse and -1 or 1)
end
return {known[1], top, entries}
