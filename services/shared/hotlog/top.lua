-- Epoch and readable top. KEYS: meta. ARGV: class, epoch for a new `hot` log, meta_ttl_s.
-- Returns {epoch, top}, or nothing where a `stored` channel has no meta.
local known = redis.call('HMGET', KEYS[1], 'epoch', 'top', 'stored')
if ARGV[1] == 'stored' then
  if not known[1] or not known[3] then return {} end
  return {known[1], tonumber(known[3])}
end
if not known[1] then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'top', 0)
  known = {ARGV[2], '0'}
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
return {known[1], tonumber(known[2])}
