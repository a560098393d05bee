-- Keeps a new letter, due at once. KEYS: letters, due, names of endpoints. ARGV: id, letter, name of the endpoint.
-- Returns 1; 0 if the letter is there already: its events were read twice.
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
local time = redis.call('TIME')
redis.call('ZADD', KEYS[2], time[1] * 1000 + math.floor(time[2] / 1000), ARGV[1])
redis.call('SADD', KEYS[3], ARGV[3])  -- each time: a Redis that lost it has it again with its letters
return 1
