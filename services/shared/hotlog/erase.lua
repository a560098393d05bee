-- Replaces publications of readable entries of a `stored` channel by others, and leaves no byte of the former ones.
--
-- KEYS: log, meta.
-- ARGV: erasures of the channel that the store has counted, most readable entries that stay in the log, most entries that
--   one call handles, most bytes of those readable and those not, then per entry: offset, publication.
-- Returns {state, entries written}. State 0: nothing had to be done; 1: rebuilt. 2: more is not readable than one call
--   handles, so all readable entries were cut off, and bytes of them may be left: call again.
local known = redis.call('HMGET', KEYS[2], 'stored', 'erased', 'unclean')
local stored = tonumber(known[1])
if not stored then
  redis.call('DEL', KEYS[1])
  return {0, 0}
end
local replaced, changes = {}, known[3] == '1'
local oldest = oldest_of(KEYS[1])
for index = 5, #ARGV, 2 do
  local offset = tonumber(ARGV[index])
  if offset <= stored then
    replaced[ARGV[index]] = ARGV[index + 1]
    if not changes then
      local entry = oldest and offset >= oldest and span(KEYS[1], offset, offset)[1]
      changes = entry and entry[2][4] ~= ARGV[index + 1] or not entry and has_bytes(oldest, offset)
    end
  end
end
-- Kept so that a Redis that lost this is known by it: see verify.lua.
if tonumber(ARGV[1]) > (tonumber(known[2]) or 0) then redis.call('HSET', KEYS[2], 'erased', ARGV[1]) end
if not changes then return {0, 0} end
local written = rebuild(KEYS[1], stored, replaced, tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]))
if written then
  if known[3] then redis.call('HDEL', KEYS[2], 'unclean') end
  return {1, written}
end
redis.call('XTRIM', KEYS[1], 'MINID', string.format('%d-0', stored + 1))
redis.call('HSET', KEYS[2], 'unclean', 1)
return {2, 0}
