-- Notes that markers are to be written to the store.
--
-- A note belongs to the slot of time in which it was made. So a marker that moves all the time is written, too: its
-- old note gets no younger.
--
-- KEYS: unwritten.
-- ARGV: length of a slot in ms, then what is noted.
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local slot = string.format('%d', math.floor(ms / tonumber(ARGV[1])))
for index = 2, #ARGV do
  redis.call('ZADD', KEYS[1], string.format('%d', ms), slot .. ' ' .. ARGV[index])
end
return 1
