#!lua flags=allow-oom
-- Notes that a `stored` channel was compared with the store in this incarnation, if Redis has what the store has.
--
-- It also sets what the channel has counted, if it counts or is to: what the store has, and what Redis has above that.
--
-- KEYS: meta, log, head of a conversation.
-- ARGV: epoch, top of the store, token of the incarnation, 1 if Redis may have more, n and mv at the top of the store,
--   number of erasures in the store. If Redis has seen fewer, it came back with what was erased: its readable entries go.
-- Returns 1 if it was noted, 0 if Redis is behind, -1 if there is no meta, 2 if Redis has more, 3 if something is missing
--   that was readable before it was stored.
local function flags_of(fields)
  for at = 9, #fields, 2 do
    if fields[at] == 'c' then return tonumber(string.match(fields[at + 1], '^%d+')) end
  end
  return 0
end

-- Calls a function with each entry from one offset to another ('+': the last one), in parts, since all of them at once may
-- be very many bytes; returns how many there are.
local function each(from, to, see)
  local count = 0
  while true do
    local some = redis.call('XRANGE', KEYS[2], string.format('%d-0', from), to, 'COUNT', 64)
    for _, entry in ipairs(some) do
      from = tonumber(string.match(entry[1], '^%d+')) + 1
      if see then see(from - 1, entry[2]) end
    end
    count = count + #some
    if #some < 64 then return count end
  end
end

local known = redis.call('HMGET', KEYS[1], 'epoch', 'stored', 'top', 'counts', 'erased', 'shown')
if not known[1] or not known[2] then return -1 end
if known[1] ~= ARGV[1] or tonumber(known[2]) < tonumber(ARGV[2]) then return 0 end
if tonumber(known[2]) > tonumber(ARGV[2]) and ARGV[4] ~= '1' then return 2 end
local shown = tonumber(known[6]) or 0
if shown > tonumber(known[2]) then
  local readable = each(tonumber(known[2]) + 1, string.format('%d-0', shown), nil)
  if readable ~= shown - tonumber(known[2]) then return 3 end
end
redis.call('HSET', KEYS[1], 'life', ARGV[3])
if tonumber(ARGV[7]) > (tonumber(known[5]) or 0) then
  redis.call('XTRIM', KEYS[2], 'MINID', string.format('%d-0', tonumber(known[2]) + 1))
  redis.call('DEL', KEYS[3])
  redis.call('HSET', KEYS[1], 'erased', ARGV[7], 'unclean', 1)
end
if known[4] or ARGV[5] ~= '0' or ARGV[6] ~= '0' then
  local top, n, mv = tonumber(known[3]), tonumber(ARGV[5]), tonumber(ARGV[6])
  local above = each(tonumber(ARGV[2]) + 1, '+', function(offset, fields)
    local flags = flags_of(fields)
    if flags % 2 >= 1 then n = n + 1 end
    if flags % 4 >= 2 then mv = offset end
  end)
  if above == top - tonumber(ARGV[2]) then
    redis.call('HSET', KEYS[1], 'counts', string.format('%d %d %d', top, n, mv))
  elseif tonumber(string.match(known[4] or '', '^%d+')) ~= top then
    redis.call('HSET', KEYS[1], 'counts', '')  -- not known: the store has gone on meanwhile, and is to be asked again
  end
end
return 1
