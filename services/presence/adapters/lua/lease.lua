-- Renews or takes an edge's lease. KEYS: leases (zset of "<edge>" by expiry in ms), generations (hash), to reap (set).
-- ARGV: edge, generation, ttl_ms, 1 if it was granted before. Returns 1, or 0 where this generation's lease has run
-- out or was lost with its members: it is never renewed.
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local known = tonumber(redis.call('HGET', KEYS[2], ARGV[1]))
local generation = tonumber(ARGV[2])
if known and known > generation then return 0 end
if ARGV[4] == '1' and known ~= generation then return 0 end
if known == generation then
  local expiry = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]))
  if not expiry or expiry < ms then return 0 end
elseif known then
  redis.call('SADD', KEYS[3], ARGV[1] .. ' ' .. string.format('%d', known))
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[1], string.format('%d', ms + tonumber(ARGV[3])), ARGV[1])
return 1
