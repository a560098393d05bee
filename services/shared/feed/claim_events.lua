-- Takes over what consumers of a group did not acknowledge in time, and forgets consumers that are long gone.
--
-- KEYS: stream of the group's gaps, then the streams.
-- ARGV: group, consumer, milliseconds after which an entry is taken over, most entries, milliseconds after which a consumer
--   without entries is forgotten, then per key its name in gaps, and the id from which on to look.
-- Entries that the stream no longer has are told as a gap.
-- Returns per key {id from which on to look next, its entries}.
local group, consumer, idle, most, gone = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local found = {}
for at = #KEYS, 1, -1 do  -- gaps last: those that are told here are read by the next call
  local key, name, from = KEYS[at], ARGV[2 * at + 4], ARGV[2 * at + 5]
  found[at] = {from, {}}
  local reply = most > 0 and redis.pcall('XAUTOCLAIM', key, group, consumer, idle, from, 'COUNT', most)
  if reply and reply.err then
    if not string.find(reply.err, '^NOGROUP') then error(reply.err) end
  elseif reply then
    found[at] = {reply[1], reply[2]}
    most = most - #reply[2]
    if reply[3] and #reply[3] > 0 then
      redis.call('XADD', KEYS[1], 'MAXLEN', '~', 1000, '*', 'r', 'trimmed', 's', name, 'n', #reply[3])
    end
    for _, said in ipairs(redis.call('XINFO', 'CONSUMERS', key, group)) do
      local one = {}
      for field = 1, #said, 2 do one[said[field]] = said[field + 1] end
      if one.name ~= consumer and one.pending == 0 and one.idle > gone then
        redis.call('XGROUP', 'DELCONSUMER', key, group, one.name)
      end
    end
  end
end
return found
