-- Returns a page of members. KEYS: roster, order. ARGV: client after which it begins, or '', most clients, most bytes.
-- Returns {1, entries in order, client after which the next page begins, or ''}; {0, all clients} of a roster that is not kept
-- in order, for it is small; {2, how} of one that is not in order and should be: see order.lua.
local count, listed = redis.call('HLEN', KEYS[1]), redis.call('ZCARD', KEYS[2])
if listed > 0 and listed == count then
  local limit = tonumber(ARGV[2])
  local start = ARGV[1] == '' and '-' or '(' .. ARGV[1]
  local clients = redis.call('ZRANGEBYLEX', KEYS[2], start, '+', 'LIMIT', 0, limit + 1)
  local more = clients[limit + 1] ~= nil
  clients[limit + 1] = nil
  local found = read_entries(clients, tonumber(ARGV[3]))
  return {1, found, (more or #found < #clients) and clients[#found] or ''}
end
if count <= 1000 then return {0, redis.call('HKEYS', KEYS[1])} end
return {2, listed > count and 'clean' or 'add'}
