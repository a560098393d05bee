-- Sets a `stored` channel to the state of the store, which is ahead of Redis. What Redis numbered above its own
-- readable top was never acknowledged, and is deleted together with its keys. What was readable before it was stored is
-- dealt with by the caller first.
--
-- KEYS: log, meta, then keys to forget, then keys to remember, then, if the feed may tell of the channel, its stream.
-- ARGV: epoch, top of the store, token of the incarnation, number of keys to forget, time of the store's newest
--   publication (Unix ms), entries that the stream of the feed keeps (empty: none is given), its name in gaps,
--   up to where the caller has dealt with what was readable (epoch, space, offset), pub/sub channel, then per key to
--   remember: position, ttl_s.
-- Returns 0 if Redis had all of it already, -2 if the feed must be told a gap and there is no stream, -3 if more has
-- become readable than the caller has dealt with; then nothing was done; else 1.
local known = redis.call('HMGET', KEYS[2], 'epoch', 'stored', 'top', 'time', 'counts', 'told', 'life', 'hinted', 'shown')
local epoch, top, incarnation, forget = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local saved_epoch, saved = string.match(ARGV[8], '^(%S*) (%d+)$')
if saved_epoch ~= known[1] then saved = 0 end
if (tonumber(known[9]) or 0) > math.max(tonumber(known[2]) or 0, tonumber(saved)) then return -3 end
local stored = known[1] == epoch and tonumber(known[2])
local ahead = stored and stored >= top
local places, low = {}, (stored or 0) + 1  -- of each entry that is not stored: its key, and where that leads
while true do  -- in parts, since all of them at once may be very many bytes
  local some = redis.call('XRANGE', KEYS[1], string.format('%d-0', low), '+', 'COUNT', 64)
  for _, entry in ipairs(some) do
    low = tonumber(string.match(entry[1], '^%d+')) + 1
    places[#places + 1] = {entry[2][8], (known[1] or '') .. ' ' .. string.format('%d', low - 1)}
  end
  if #some < 64 then break end
end
local whole = ahead and #places == tonumber(known[3]) - stored
-- What the store has and nobody committed is never told. If Redis has lost something, all groups are told that anyway.
local generation = '%.(%d+)$'
local gap = (known[6] or known[8]) and not ahead and string.match(known[7] or '', generation) == string.match(incarnation, generation)
local stream = ARGV[6] ~= ''
if gap and not stream then return -2 end
local last_key = stream and #KEYS - 1 or #KEYS
if not whole then
  -- A key must not lead to a place that somebody else will be given. Those that the store has are remembered below.
  for _, one in ipairs(places) do  -- what leads elsewhere is brought from the store
    if one[1] and redis.call('GET', one[1]) == one[2] then redis.call('DEL', one[1]) end
  end
end
for index = 3, 2 + forget do
  -- Somebody else resolved the same conflict meanwhile, and stored and committed the key above the top that we read.
  local its_epoch, offset = string.match(redis.call('GET', KEYS[index]) or '', '^(%S+) (%d+)$')
  local committed = ahead and its_epoch == epoch and tonumber(offset) > top and tonumber(offset) <= stored
  if not committed then redis.call('DEL', KEYS[index]) end
end
for index = 3 + forget, last_key do
  local at = 10 + (index - 3 - forget) * 2
  redis.call('SET', KEYS[index], ARGV[at], 'EX', ARGV[at + 1])
end
if whole then
  redis.call('HSET', KEYS[2], 'life', incarnation)
  return 0
end
if known[9] then redis.call('HDEL', KEYS[2], 'shown') end
if known[9] and known[1] ~= epoch then redis.call('PUBLISH', ARGV[9], 'r' .. epoch) end  -- subscribers may be ahead of it
if known[5] then redis.call('HSET', KEYS[2], 'counts', '') end  -- not known any more: verify.lua brings them
redis.call('DEL', KEYS[1])
if ahead then
  -- Of what was numbered and not stored, something is not there: none of it was acknowledged.
  redis.call('HSET', KEYS[2], 'life', incarnation, 'top', known[2])
else
  if known[1] ~= epoch then redis.call('HDEL', KEYS[2], 'removed') end  -- an older copy of the store may have it still
  redis.call('HSET', KEYS[2], 'epoch', epoch, 'top', ARGV[2], 'stored', ARGV[2], 'life', incarnation,
    'time', string.format('%d', math.max(tonumber(ARGV[5]), tonumber(known[4]) or 0)))
  if known[6] then redis.call('HSET', KEYS[2], 'told', ARGV[2]) end
  if known[8] then redis.call('HSET', KEYS[2], 'hinted', ARGV[2]) end
  if gap then  -- 'g': only for those who ask for hidden entries
    redis.call('XADD', KEYS[#KEYS], 'MAXLEN', '~', ARGV[6], '*', known[6] and 'r' or 'g', 'lost', 's', ARGV[7],
      'n', stored and string.format('%d', top - stored) or '')
  end
end
return 1
