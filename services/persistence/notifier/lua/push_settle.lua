#!lua flags=allow-oom
-- Notes up to where a conversation was looked at. KEYS: due, ranges. ARGV: channel, epoch, offset, ms until what came
-- meanwhile is due.
local channel, epoch, upto = ARGV[1], ARGV[2], tonumber(ARGV[3])
local kept = redis.call('HGET', KEYS[2], channel)
local its_epoch, first, last
if kept then its_epoch, first, last = kept:match('^(%S+) (%d+) (%d+)$') end
if not kept or (its_epoch == epoch and tonumber(last) <= upto) then
  redis.call('HDEL', KEYS[2], channel)
  redis.call('ZREM', KEYS[1], channel)
  return 0
end
if its_epoch == epoch then
  first = math.max(tonumber(first), upto + 1)
  redis.call('HSET', KEYS[2], channel, string.format('%s %.0f %.0f', epoch, first, tonumber(last)))
end
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[4]), channel)
return 1
