-- Gives publications their time; loaded in front of the scripts that number them.
--
-- `stamp(last)` returns the time of what is numbered now, Unix ms by the clock of this server and never before `last`,
-- and the bytes that set it in a serialized Publication when they are appended: field 6, `time_ms`, as a varint of six
-- bytes. If a field is there twice, the last one counts. All publications of one run of a script have one time.
local function varint_time(ms)
  local high = math.floor(ms / 2097152)
  return string.format('%d', ms), string.char(48,
    128 + ms % 128, 128 + math.floor(ms / 128) % 128, 128 + math.floor(ms / 16384) % 128,
    128 + high % 128, 128 + math.floor(high / 128) % 128, math.floor(high / 16384))
end
local ms_now, time_now, stamp_now
local function stamp(last)
  if not ms_now then
    local now = redis.call('TIME')
    ms_now = now[1] * 1000 + math.floor(now[2] / 1000)
    time_now, stamp_now = varint_time(ms_now)
  end
  last = tonumber(last) or 0
  if last > ms_now then return varint_time(last) end
  return time_now, stamp_now
end
