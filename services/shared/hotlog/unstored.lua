-- Returns the entries of a `stored` channel above its readable top.
--
-- KEYS: log, meta.
-- ARGV: most entries.
-- Returns {epoch, readable top, entries, token of the incarnation in which it was compared}; {} if there is no meta.
local known = redis.call('HMGET', KEYS[2], 'epoch', 'stored', 'life')
if not known[1] or not known[2] then return {} end
local first = string.format('%d-0', tonumber(known[2]) + 1)
return {known[1], tonumber(known[2]), redis.call('XRANGE', KEYS[1], first, '+', 'COUNT', ARGV[1]), known[3] or ''}
