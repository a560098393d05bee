-- Returns the entries of a `stored` channel that are not stored, as far as Redis knows.
--
-- KEYS: log, meta.
-- ARGV: most entries.
-- Returns {epoch, up to where it is stored, entries, token of the incarnation in which it was compared, readable top};
--   {} if there is no meta.
local known = redis.call('HMGET', KEYS[2], 'epoch', 'stored', 'life', 'shown')
if not known[1] or not known[2] then return {} end
local first = string.format('%d-0', tonumber(known[2]) + 1)
return {known[1], tonumber(known[2]), redis.call('XRANGE', KEYS[1], first, '+', 'COUNT', ARGV[1]), known[3] or '',
  math.max(tonumber(known[2]), tonumber(known[4]) or 0)}
