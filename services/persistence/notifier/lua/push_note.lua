-- Notes that the log of conversations has grown. KEYS: due, ranges. ARGV, for each: channel, epoch, offset, ms until it
-- is due. A conversation that is due already stays due as it is; with 0 ms it is due at once.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for at = 1, #ARGV, 4 do
  local channel, epoch, offset, delay = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local first, last = offset, offset
  local kept = redis.call('HGET', KEYS[2], channel)
  if kept then
    local its_epoch, its_first, its_last = kept:match('^(%S+) (%d+) (%d+)$')
    if its_epoch == epoch then
      first, last = math.min(first, tonumber(its_first)), math.max(last, tonumber(its_last))
    end
  end
  redis.call('HSET', KEYS[2], channel, string.format('%s %.0f %.0f', epoch, first, last))
  redis.call('ZADD', KEYS[1], 'NX', now + delay, channel)
  if delay == 0 then redis.call('ZADD', KEYS[1], 'LT', now, channel) end
end
return 1
