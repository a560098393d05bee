-- Marks channels as dirty: they may soon hold entries that are not stored.
--
-- KEYS: dirty.
-- ARGV: channels.
local now = redis.call('TIME')
local ms = string.format('%d', now[1] * 1000 + math.floor(now[2] / 1000))
local marks = {}
for index, channel in ipairs(ARGV) do
  marks[2 * index - 1], marks[2 * index] = ms, channel
end
for first = 1, #marks, 1000 do  -- Lua can't hand over more than 8,000
  redis.call('ZADD', KEYS[1], unpack(marks, first, math.min(first + 999, #marks)))
end
return 1
