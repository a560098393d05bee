-- Put before the text of other scripts, whose last key it takes. The clock of presence: ms that only grow, whatever is done
-- to the clock of the host. Since the last sweep (`tick`) as much passed as the clock of Redis says, between nothing and
-- `most`. A tenth of it is used to come nearer to the clock of Redis.
local function read_clock()
  local time = redis.call('TIME')
  local wall = time[1] * 1000 + math.floor(time[2] / 1000)
  local then_wall, then_ms, most = string.match(redis.call('HGET', KEYS[#KEYS], 'at') or '', '^(%d+) (%d+) (%d+)$')
  if not then_wall then return wall, wall, 0 end
  local passed = math.min(math.max(wall - tonumber(then_wall), 0), tonumber(most))
  return tonumber(then_ms) + passed, wall, passed
end
local ms = read_clock()
local function tick(most)
  local now, wall, passed = read_clock()
  ms = now + math.max(math.min(wall - now, math.floor(passed / 10)), -math.floor(passed / 10))
  redis.call('HSET', KEYS[#KEYS], 'at', string.format('%d %d %s', wall, ms, most))
end
