-- Replaces values of a user's markers that are as they were read, and keeps the hash for a time.
--
-- KEYS: markers of the user.
-- ARGV: seconds to keep the hash; then field, expected value ('': there is none), new value ('': none), …
-- Returns for each field whether it was replaced: 1 or 0.
local done = {}
for index = 2, #ARGV, 3 do
  local same = (redis.call('HGET', KEYS[1], ARGV[index]) or '') == ARGV[index + 1]
  if same and ARGV[index + 2] == '' then
    redis.call('HDEL', KEYS[1], ARGV[index])
  elseif same then
    redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 2])
  end
  done[#done + 1] = same and 1 or 0
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return done
