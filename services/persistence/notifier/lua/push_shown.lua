-- Notes what users see on their devices. KEYS: watch, shown. ARGV: channel, ms until the first look, ms until it is
-- forgotten, then for each: user, rev, record. What is of a later event of the same epoch stays.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for at = 4, #ARGV, 3 do
  local user, rev = ARGV[at], tonumber(ARGV[at + 1])
  local kept = redis.call('HGET', KEYS[2], user)
  local its_rev, its_epoch = (kept or ''):match('^(%d+) %d+ %d+ (%S+)')
  if not kept or tonumber(its_rev) <= rev or its_epoch ~= ARGV[at + 2]:match('^%d+ %d+ (%S+)') then
    redis.call('HSET', KEYS[2], user, string.format('%.0f ', rev) .. ARGV[at + 2])
  end
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1] .. ' ' .. user)
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
