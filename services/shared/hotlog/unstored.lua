-- Entries of a `stored` channel that readers do not see yet. KEYS: log, meta. ARGV: at most so many.
-- Returns {epoch, stored, entries, life}, or nothing where there is no meta.
local known = redis.call('HMGET', KEYS[2], 'epoch', 'stored', 'life')
if not known[1] or not known[2] then return {} end
local first = string.format('%d-0', tonumber(known[2]) + 1)
return {known[1], tonumber(known[2]), redis.call('XRANGE', KEYS[1], first, '+', 'COUNT', ARGV[1]), known[3] or ''}
