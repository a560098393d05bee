#!lua flags=allow-oom
-- Makes entries of a `stored` channel readable, and publishes them in the order of offsets. The store must have them.
--
-- KEYS: log, meta.
-- ARGV: epoch, upto, history_size, pub/sub channel, token of the incarnation in which they were numbered.
-- Returns the readable top; -1 if epoch or incarnation is another one, or an entry is missing.
local log, meta = KEYS[1], KEYS[2]
local known = redis.call('HMGET', meta, 'epoch', 'top', 'stored', 'life')
local stored, upto = tonumber(known[3]), tonumber(ARGV[2])
if known[1] ~= ARGV[1] or not stored or known[4] ~= ARGV[5] then return -1 end
if upto > tonumber(known[2]) then return -1 end
if upto <= stored then return stored end
local entries = redis.call('XRANGE', log, string.format('%d-0', stored + 1), string.format('%d-0', upto))
if #entries ~= upto - stored then return -1 end
-- First: a Redis that takes no writes refuses here, before anybody has heard what can't be read.
redis.call('HSET', meta, 'stored', string.format('%d', upto))
for _, entry in ipairs(entries) do
  local offset = string.match(entry[1], '^%d+')
  redis.call('PUBLISH', ARGV[4], 'p' .. known[1] .. ' ' .. offset .. ' ' .. entry[2][4])
end
-- Cut at every sixteenth offset: up to fifteen more are kept.
local oldest = upto - tonumber(ARGV[3]) + 1
if oldest > 1 and math.floor(upto / 16) > math.floor(stored / 16) then
  redis.call('XTRIM', log, 'MINID', string.format('%d-0', oldest))
end
return upto
