-- Notes when graces end. KEYS: due (zset). ARGV: member, ms from now, member, ms from now, …
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
for index = 1, #ARGV, 2 do
  redis.call('ZADD', KEYS[1], string.format('%d', ms + tonumber(ARGV[index + 1])), ARGV[index])
end
return 1
