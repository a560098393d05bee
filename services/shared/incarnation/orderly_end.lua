#!lua flags=allow-oom
-- Ends this run in order: persistence stops, and no edge is there. Nothing can be written before the run is judged
-- again, so what persistence has seen until now is all that there is.
--
-- KEYS: life (the incarnation), observed, observers, beacon (the heartbeat).
-- ARGV: generation and number of writes that persistence knows, its counter, pub/sub channel of edges.
-- Returns {counter, number of writes, ms}; {} if edges are there or this is not the Redis that it knows, and then
--   nothing was done.
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local stretch = run_id .. ' ' .. string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
local found = redis.call('HMGET', KEYS[2], 'writes', 'stretch')
local writes, generation, known_count = tonumber(found[1]) or 0, tonumber(ARGV[1]), tonumber(ARGV[3])
local of_run, its_generation = string.match(redis.call('GET', KEYS[1]) or '', '^(%S+) (%d+) ')
if of_run ~= run_id or tonumber(its_generation) ~= generation or found[2] ~= stretch then return {} end
local count = tonumber(redis.call('GET', KEYS[4])) or 0
if writes < tonumber(ARGV[2]) or count < known_count then return {} end
local listening = redis.call('PUBSUB', 'NUMSUB', ARGV[4])
if listening[2] > 0 then return {} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local all = redis.call('HGETALL', KEYS[3])
for index = 2, #all, 2 do
  if math.abs(now - tonumber(all[index])) < 2000 then return {} end  -- an edge that has lost its subscriptions
end
redis.call('DEL', KEYS[3])
redis.call('SET', KEYS[1], 'left ' .. string.format('%d 0', generation))
return {redis.call('INCR', KEYS[4]), writes, now}
