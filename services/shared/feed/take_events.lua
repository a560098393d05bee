-- Takes entries of the feed for one consumer of a group, and tells the group what it missed.
--
-- KEYS: hash of the group, stream of its gaps, then the streams.
-- ARGV: group, consumer, most entries, where a new group begins ('0': with what is kept, '$': with what comes), name of the
--   key of the incarnation, then per stream its name in gaps. The incarnation is none of KEYS, because those must be
--   writable for whoever calls, and it is not.
-- The hash has `generation`, and per stream how many entries the group has read or was told that it missed, counted from
-- the first entry that the stream ever had.
-- Returns {last ids, then per key that had entries {its index, its entries}}. Last ids, of all keys from the second
-- on, are there only if nothing was taken: whoever waits for entries after them misses none. {} if the group
-- was not as the hash says: it is forgotten, and the next call begins it again.
local record, gaps, group, consumer, most, from = KEYS[1], KEYS[2], ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

local function tell_gap(reason, stream, missed)
  redis.call('XADD', gaps, 'MAXLEN', '~', 1000, '*', 'r', reason, 's', stream, 'n', missed)
end
local function begin(stream, id)  -- returns whether the stream did not have the group
  local made = redis.pcall('XGROUP', 'CREATE', stream, group, id, 'MKSTREAM')
  if made.err and not string.find(made.err, '^BUSYGROUP') then error(made.err) end
  return not made.err
end
local function info(stream)
  local found, said = {}, redis.call('XINFO', 'STREAM', stream)
  for at = 1, #said, 2 do found[said[at]] = said[at + 1] end
  return found
end

local known = redis.call('HMGET', record, 'generation', unpack(KEYS, 3))
local generation = string.match(redis.call('GET', ARGV[5]) or '', '^%S+ (%d+) ')
if generation and generation ~= known[1] then
  begin(gaps, '0')
  if known[1] then tell_gap('lost', '', '') end
  redis.call('HSET', record, 'generation', generation)
end
local new = 0
for at = 3, #KEYS do
  if not known[at - 1] then
    new = new + 1
    if new == 1 then begin(gaps, '0') end
    local made, said = begin(KEYS[at], from), info(KEYS[at])
    -- Of a group that was there, how much it has read is not known: rather a gap too many than one too few.
    local index = made and from == '$' and said['entries-added'] or said['entries-added'] - said['length']
    known[at - 1] = index
    redis.call('HSET', record, KEYS[at], string.format('%d', index))
  end
end
if new > 0 then tell_gap('new', '', '') end

local found, taken = {{}}, 0
local function take(key)
  local left = most - taken
  if left <= 0 then return {} end
  local reply = redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', left, 'STREAMS', key, '>')
  if not reply then return {} end
  if reply.err then return nil, reply.err end
  taken = taken + #reply[1][2]
  return reply[1][2]
end
for at = 3, #KEYS do
  local entries, wrong = take(KEYS[at])
  if not entries then
    if not string.find(wrong, '^NOGROUP') then error(wrong) end
    redis.call('DEL', record)
    return {}
  end
  if #entries > 0 then
    local said, index = info(KEYS[at]), tonumber(known[at - 1])
    local trimmed = said['entries-added'] - said['length']
    if trimmed > index then
      tell_gap('trimmed', ARGV[at + 3], string.format('%d', trimmed - index))
      index = trimmed
    end
    redis.call('HSET', record, KEYS[at], string.format('%d', index + #entries))
    found[#found + 1] = {at, entries}
  end
end
most = taken + 100  -- gaps are few, and told in any case
local told, wrong = take(gaps)
if not told then
  if not string.find(wrong, '^NOGROUP') then error(wrong) end
  redis.call('DEL', record)
  return {}
end
if #told > 0 then table.insert(found, 2, {2, told}) end
if taken == 0 then
  for at = 2, #KEYS do table.insert(found[1], info(KEYS[at])['last-generated-id']) end
end
return found
