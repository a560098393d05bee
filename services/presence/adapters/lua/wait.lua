-- Notes when graces end. KEYS: due (zset), clock. ARGV: member, ms from now, member, ms from now, …
for index = 1, #ARGV, 2 do
  redis.call('ZADD', KEYS[1], string.format('%d', ms + tonumber(ARGV[index + 1])), ARGV[index])
end
return 1
