-- Takes a dead letter out of the dead ones. KEYS: letters, due, dead, owners.
-- ARGV: id, the letter to send, or '' to drop it, owner. Returns 1; 0 if it is not among the dead ones.
local id, letter = ARGV[1], ARGV[2]
if redis.call('ZREM', KEYS[3], id) == 0 then return 0 end
disown(ARGV[3], id)
if letter == '' then
  redis.call('HDEL', KEYS[1], id)
else
  local time = redis.call('TIME')
  redis.call('HSET', KEYS[1], id, letter)
  redis.call('ZADD', KEYS[2], time[1] * 1000 + math.floor(time[2] / 1000), id)
end
return 1
