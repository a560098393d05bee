-- Notes in the meta of a `stored` channel that the store has noted a generation of Redis, or tells which one it is. It
-- counts for the epoch that the channel has.
--
-- KEYS: meta.
-- ARGV: token of the incarnation in which the channel must have been compared with the store, generation ('': tell).
-- Returns the noted generation; 0: none, or the channel was not compared.
local known = redis.call('HMGET', KEYS[1], 'epoch', 'life', 'noted')
if not known[1] or known[2] ~= ARGV[1] then return 0 end
if ARGV[2] == '' then
  local epoch, generation = string.match(known[3] or '', '^(%S+) (%d+)$')
  return epoch == known[1] and tonumber(generation) or 0
end
redis.call('HSET', KEYS[1], 'noted', known[1] .. ' ' .. ARGV[2])
return tonumber(ARGV[2])
