-- Makes entries of a `stored` channel readable, and announces them in offset order. Never before the store has them.
-- KEYS: log, meta. ARGV: epoch, upto, history_size, history_ttl_s, pub/sub channel, life in which they were numbered.
-- Returns what is readable now; -1: another epoch or life, or an entry is not there.
local log, meta = KEYS[1], KEYS[2]
local known = redis.call('HMGET', meta, 'epoch', 'top', 'stored', 'life')
local stored, upto = tonumber(known[3]), tonumber(ARGV[2])
if known[1] ~= ARGV[1] or not stored or known[4] ~= ARGV[6] then return -1 end
if upto > tonumber(known[2]) then return -1 end
if upto <= stored then return stored end
local entries = redis.call('XRANGE', log, string.format('%d-0', stored + 1), string.format('%d-0', upto))
if #entries ~= upto - stored then return -1 end
for _, entry in ipairs(entries) do
  local offset = string.match(entry[1], '^%d+')
  redis.call('PUBLISH', ARGV[5], 'p' .. known[1] .. ' ' .. offset .. ' ' .. entry[2][4])
end
redis.call('HSET', meta, 'stored', string.format('%d', upto))
local oldest = upto - tonumber(ARGV[3]) + 1
if oldest > 1 then redis.call('XTRIM', log, 'MINID', string.format('%d-0', oldest)) end
if upto == tonumber(known[2]) then redis.call('EXPIRE', log, ARGV[4]) end
return upto
