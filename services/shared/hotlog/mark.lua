-- Notes that channels may soon hold entries which are not stored. KEYS: dirty set. ARGV: channels.
local now = redis.call('TIME')
local ms = string.format('%d', now[1] * 1000 + math.floor(now[2] / 1000))
for _, channel in ipairs(ARGV) do redis.call('ZADD', KEYS[1], ms, channel) end
return 1
