-- In front of the scripts that give offsets. Returns the time of what they number now, Unix ms by the clock of this server
-- and never before `last`; and the bytes that set it in a serialized Publication when they are put behind it: a varint of
-- six bytes as field 6, `time_ms`. Of a field that is there twice the last one counts.
local function stamp(last)
  local now = redis.call('TIME')
  local ms = math.max(now[1] * 1000 + math.floor(now[2] / 1000), tonumber(last) or 0)
  local high = math.floor(ms / 2097152)
  return string.format('%d', ms), string.char(48,
    128 + ms % 128, 128 + math.floor(ms / 128) % 128, 128 + math.floor(ms / 16384) % 128,
    128 + high % 128, 128 + math.floor(high / 128) % 128, math.floor(high / 16384))
end
