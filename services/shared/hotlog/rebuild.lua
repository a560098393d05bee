#!lua flags=allow-oom
-- Rebuilds a log so that Redis has no byte of what was replaced or cut off; loaded in front of erase.lua and trim.lua.
--
-- XDEL and XTRIM only mark entries as deleted: the node of the stream that has them keeps their bytes, and so do copies
-- of it (DUMP, RDB, a rewritten AOF) until all of its up to 100 entries are gone. A new stream has what is put into it.
--
-- `rebuild(log, stored, replaced, most, most_written, most_bytes)` makes the log of its newest readable entries (up to
-- offset `stored`, `most` of them) and of all that are not readable yet, with the same ids, fields and time to live. They
-- are `most_written` together: the fewer are not readable yet, the more readable ones stay.
-- `replaced`: offset → publication of readable entries. Returns the number of entries; nil, and the log is as it was, if
-- those not readable are over `most_written` entries. Either part has `most_bytes` of publications at most.
--
-- `oldest_of(log)`: offset of its oldest entry; nil if there is none.
--
-- `has_bytes(from, offset)`, with the oldest offset `from` of the log: whether a node may have bytes of an entry that was
-- cut off before, as each log is that gets longer than its size. The meta has in `made` where the log began when it was
-- made anew: below that there is nothing.
local NODE = 100  -- entries of a node of a stream, as Redis has it by default
local PAGE = 16  -- entries read at once: one may have hundreds of kilobytes
local function span(log, first, last)
  return redis.call('XRANGE', log, string.format('%d-0', first), string.format('%d-0', last))
end
local function oldest_of(log)
  local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  return first and tonumber(string.match(first[1], '^%d+'))
end
local function has_bytes(from, offset)
  if not from or offset >= from or from - offset >= NODE then return false end
  local known = redis.call('HMGET', KEYS[2], 'epoch', 'made')
  local epoch, made = string.match(known[2] or '', '^(%S+) (%d+)$')
  return epoch ~= known[1] or offset >= tonumber(made)
end
local function rebuild(log, stored, replaced, most, most_written, most_bytes)
  local above, below, bytes, from = {}, {}, 0, stored + 1
  repeat
    local entries = redis.call('XRANGE', log, string.format('%d-0', from), '+', 'COUNT', PAGE)
    for _, entry in ipairs(entries) do
      bytes = bytes + #entry[2][4]
      if #above == most_written or bytes > most_bytes then return nil end
      above[#above + 1], from = entry, tonumber(string.match(entry[1], '^%d+')) + 1
    end
  until #entries < PAGE
  bytes, from = 0, stored
  local oldest = math.max(stored - math.min(most, most_written - #above), 0)
  while from > oldest and bytes <= most_bytes do  -- newest first; there are no holes
    local entries = span(log, math.max(from - PAGE, oldest) + 1, from)
    for index = #entries, 1, -1 do
      bytes = bytes + #entries[index][2][4]
      if bytes <= most_bytes then below[#below + 1] = entries[index] end
    end
    if #entries < PAGE then break end
    from = from - PAGE
  end
  local ttl = redis.call('TTL', log)
  redis.call('DEL', log)
  for index = #below, 1, -1 do
    local id, fields = below[index][1], below[index][2]
    fields[4] = replaced[string.match(id, '^%d+')] or fields[4]
    redis.call('XADD', log, id, unpack(fields))
  end
  for _, entry in ipairs(above) do redis.call('XADD', log, entry[1], unpack(entry[2])) end
  if ttl > 0 then redis.call('EXPIRE', log, ttl) end
  local begin = #below > 0 and string.match(below[#below][1], '^%d+') or string.format('%d', stored + 1)
  redis.call('HSET', KEYS[2], 'made', (redis.call('HGET', KEYS[2], 'epoch') or '') .. ' ' .. begin)
  return #below + #above
end
