-- Returns epoch and readable top. A `hot` log of an older generation is replaced by an empty one first.
--
-- KEYS: log, meta, observed.
-- ARGV: `hot` or `stored`, epoch for a new `hot` log (<generation>.<random>) or token of the incarnation (`stored`),
--   meta_ttl_s, pub/sub channel, number of writes that the caller has seen.
-- Returns {epoch, top}, of a `stored` channel also up to where its history was removed, if it was, and, if the store
--   lacks something that is readable, up to where it has all; {} if a `stored` channel must be compared with the store
--   first, if a `hot` log is of a later generation, or if this Redis has fewer writes.
if (tonumber(redis.call('HGET', KEYS[3], 'writes')) or 0) < tonumber(ARGV[5]) then return {} end
local function generation_of(text) return tonumber(string.match(text or '', '^(%d+)%.')) or -1 end
local known = redis.call('HMGET', KEYS[2], 'epoch', 'top', 'stored', 'life', 'time', 'removed', 'shown')
if ARGV[1] == 'stored' then
  if not known[1] or not known[3] or known[4] ~= ARGV[2] then return {} end
  local stored, shown = tonumber(known[3]), tonumber(known[7]) or 0
  if shown > stored then return {known[1], shown, tonumber(known[6]) or 0, stored} end
  return {known[1], stored, tonumber(known[6])}
end
local epoch = known[1]
local age = generation_of(epoch) - generation_of(ARGV[2])
if age > 0 then return {} end
if age < 0 then
  redis.call('DEL', KEYS[1], KEYS[2])  -- a log may outlive its meta
  if epoch then redis.call('PUBLISH', ARGV[4], 'r' .. ARGV[2]) end
  redis.call('HSET', KEYS[2], 'epoch', ARGV[2], 'top', 0, 'time', known[5] or 0)
  known = {ARGV[2], '0'}
end
redis.call('EXPIRE', KEYS[2], ARGV[3])
return {known[1], tonumber(known[2])}
