-- Renews or takes an edge's lease. KEYS: leases (zset of "<edge>" by expiry in ms), generations (hash), to reap (set),
-- runs (hash: edge → run id of Redis in which it entered its members), to reap later (zset), clock (hash; its field
-- `roster` names what this Redis holds).
-- ARGV: edge, generation, ttl_ms, 1 if it was granted before, run id of this Redis, roster that the edge knows of or '',
-- name for a new roster. Returns {1 or 0, name of the roster}. 0: this generation is never renewed: its lease has run
-- out, or Redis lost it, or was started anew and may have lost some of its members.
local roster = redis.call('HGET', KEYS[6], 'roster')
if not roster then
  roster = ARGV[7]
  redis.call('HSET', KEYS[6], 'roster', roster)
end
if ARGV[6] ~= '' and ARGV[6] ~= roster then return {0, roster} end
local known = tonumber(redis.call('HGET', KEYS[2], ARGV[1]))
local generation = tonumber(ARGV[2])
if known and known > generation then return {0, roster} end
local entered_in = redis.call('HGET', KEYS[4], ARGV[1])
if ARGV[4] == '1' and (known ~= generation or entered_in ~= ARGV[5]) then return {0, roster} end
if known == generation then
  local expiry = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]))
  if not expiry or expiry < ms then return {0, roster} end
elseif known then
  local old = ARGV[1] .. ' ' .. string.format('%d', known)
  local expiry = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]))
  if expiry and expiry >= ms then
    -- The edge lives, and enters its members anew: whom it does not enter within the lease is not there any more.
    redis.call('ZADD', KEYS[5], string.format('%d', ms + tonumber(ARGV[3])), old)
  else
    redis.call('SADD', KEYS[3], old)
  end
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[4], ARGV[1], ARGV[5])
redis.call('ZADD', KEYS[1], string.format('%d', ms + tonumber(ARGV[3])), ARGV[1])
return {1, roster}
