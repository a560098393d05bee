-- Numbers publications of one `stored` channel, with their time. Nobody reads them before commit.lua.
--
-- KEYS: log, meta, then one idempotency key per item.
-- ARGV: token of the incarnation in which the channel must have been compared with the store, history_ttl_s, key_ttl_s,
--   max_unstored (with a minus sign: what is numbered may become readable before it is stored, see commit.lua; then also
--   a space and how many bytes of such publications may wait to be stored), number
--   of items with flags or a guard, then per item: publication id, publication, user and key, then per
--   item with flags or a guard: its place among KEYS, flags, guard (empty: none), to which a space and the latest
--   time may be added, Unix ms, and to that a space and the epoch that a guard is of. Then, if the feed tells of the
--   channel, per item its author, which commit.lua needs.
--   Then, where there is more to say, 'a' or, if the feed tells it only to those who ask for hidden entries, 'b', and per
--   item users whose membership it may change, or ''.
-- Returns {epoch, up to where it is stored, encoded time that was appended to each new publication, counts, 1 if anything of
--   the channel was ever numbered that may become readable before it is stored, else 0, per item its offset}.
--   An offset is negative if an earlier publish with the key has it, and 0 if it got none: too much is not stored yet,
--   or the guard is not the membership version or the epoch, or it is later. Counts: n and mv before the first item, mv
--   behind the last, and the places among the items (from 1) of those with a wrong guard or time; {} if the channel does not count.
--   {} in place of all that if the channel must be compared with the store first; then nothing was numbered.
local log, meta = KEYS[1], KEYS[2]
local known = redis.call('HMGET', meta, 'epoch', 'top', 'stored', 'life', 'rests', 'time', 'counts', 'told', 'hinted',
  'shown', 'queued_bytes', 'stored_bytes', 'lives')
local epoch, top, stored = known[1], tonumber(known[2]), tonumber(known[3])
if not epoch or not stored or known[4] ~= ARGV[1] then return {} end
local terms = ARGV[5] ~= '0' and {}
for at = 3 * #KEYS, 3 * (#KEYS + ARGV[5]) - 1, 3 do
  local guard, latest, its_epoch = ARGV[at + 2], nil, nil
  if not tonumber(guard) then guard, latest, its_epoch = string.match(guard, '^(%d*) ?(%d*) ?(%S*)$') end
  local is_other = its_epoch and its_epoch ~= '' and its_epoch ~= epoch
  terms[tonumber(ARGV[at])] = {tonumber(ARGV[at + 1]), tonumber(guard), tonumber(latest), is_other}
end
-- What is kept as of another offset was left behind by a version that does not count, so it is not known.
local at, n, mv
if known[7] then
  at, n, mv = string.match(known[7], '^(%d+) (%d+) (%d+)$')
elseif terms then
  at, n, mv = 0, 0, 0  -- as of the very beginning
end
local counted = at and tonumber(at) == top
if terms and not counted then
  redis.call('HSET', meta, 'counts', '')  -- so that the comparison brings them
  return {}
end
n, mv = tonumber(n), tonumber(mv)
if known[5] == '1' then  -- it is not to be forgotten while this is not stored
  redis.call('PERSIST', meta)
  redis.call('HSET', meta, 'rests', 0)
end
local time, stamped = stamp(known[6])
local counts = counted and {n, mv, mv} or {}
local limit, most_bytes = string.match(ARGV[4], '^-?(%d+) ?(%d*)$')
local queued, max_unstored, before = string.sub(ARGV[4], 1, 1) == '-', tonumber(limit), top
local results = {epoch, stored, stamped, counts, (queued or known[13]) and 1 or 0}
-- Bytes of all that was numbered this way, and of that what is stored; both begin anew whenever all is stored.
local bytes, bytes_stored = tonumber(known[11]) or 0, tonumber(known[12]) or 0
if top == stored then bytes, bytes_stored = 0, 0 end
most_bytes = queued and tonumber(most_bytes)
local head = 3 * (#KEYS + ARGV[5]) - 1  -- arguments in front of the authors
local authors = #ARGV > head and head - 2  -- in front of the first one there are two keys without an item
local special = authors and #ARGV > authors + #KEYS and authors + #KEYS + 1  -- of 'a' or 'b'
local kind = special and ARGV[special] or 'a'
for index = 3, #KEYS do
  local key, offset = KEYS[index], string.format('%d', top + 1)
  local place, full, position = epoch .. ' ' .. offset, top - stored >= max_unstored, nil
  full = full or (most_bytes and bytes - bytes_stored >= most_bytes)
  local mine = terms and terms[index]
  local refused = mine and ((mine[2] and mine[2] ~= mv) or (mine[3] and mine[3] < tonumber(time)) or mine[4])
  if full or refused then
    position = redis.call('GET', key)
  else
    position = redis.call('SET', key, place, 'EX', ARGV[3], 'NX', 'GET')  -- what it was, and set if it was nothing
  end
  local key_epoch, key_offset
  if position then key_epoch, key_offset = string.match(position, '^(%S+) (%d+)$') end
  if key_epoch == epoch then
    results[index + 3] = -tonumber(key_offset)
  elseif full or refused then
    results[index + 3] = 0
    if refused then counts[#counts + 1] = index - 2 end
  else
    if position then redis.call('SET', key, place, 'EX', ARGV[3]) end  -- of a log that is gone
    top = top + 1
    local at = 3 * index - 3
    local publication, id = ARGV[at + 1] .. stamped, offset .. '-0'
    if counted or queued then
      local fields = {'i', ARGV[at], 'p', publication, 'k', ARGV[at + 2], 'n', key}
      if authors then fields[9], fields[10] = kind, ARGV[authors + index] end
      if counted then
        local flags = mine and mine[1] or 0
        if flags % 2 >= 1 then n = n + 1 end
        if flags % 4 >= 2 then mv = top end
        fields[#fields + 1], fields[#fields + 2] = 'c', string.format('%d %d %d', flags, n, mv)
      end
      if queued then
        bytes = bytes + #publication + #ARGV[at + 2] + 150  -- the rest of the entry
        fields[#fields + 1], fields[#fields + 2] = 'q', string.format('%d', bytes)
      end
      local users = special and ARGV[special + index - 2] or ''
      if users ~= '' then fields[#fields + 1], fields[#fields + 2] = 'u', users end
      redis.call('XADD', log, id, unpack(fields))
    elseif authors then
      redis.call('XADD', log, id, 'i', ARGV[at], 'p', publication, 'k', ARGV[at + 2], 'n', key, kind, ARGV[authors + index])
    else
      redis.call('XADD', log, id, 'i', ARGV[at], 'p', publication, 'k', ARGV[at + 2], 'n', key)
    end
    results[index + 3] = top
  end
end
if counted then counts[3] = mv end
if top > before then
  local last = string.format('%d', top)
  if counted then
    redis.call('HSET', meta, 'top', last, 'time', time, 'counts', string.format('%d %d %d', top, n, mv))
  else
    redis.call('HSET', meta, 'top', last, 'time', time)
  end
  if authors and not known[kind == 'b' and 9 or 8] then  -- the feed tells of it from here on: commit.lua, advance.lua
    redis.call('HSET', meta, kind == 'b' and 'hinted' or 'told', string.format('%d', stored))
  end
  -- From the last publish on it lives for its time, and not shorter than keys that lead into it; up to a sixteenth and a
  -- minute longer: renewing is rare. Not while it has what somebody was told of and the store lacks: commit.lua.
  local ttl = math.max(tonumber(ARGV[2]), tonumber(ARGV[3]))
  if queued then
    redis.call('HSET', meta, 'lives', ttl, 'queued_bytes', string.format('%d', bytes),
      'stored_bytes', string.format('%d', bytes_stored))
  end
  if (tonumber(known[10]) or 0) <= stored then
    local longest, left = ttl + math.floor(ttl / 16) + 60, redis.call('TTL', log)
    if left < ttl or left > longest then redis.call('EXPIRE', log, longest) end
  end
end
return results
