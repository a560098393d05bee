#!lua flags=allow-oom
-- Gives `hot` logs a new generation: something acknowledged is gone, or nobody can tell. KEYS: life.
-- ARGV: run id of this server, highest generation known, 1: only if the life was begun by another run.
-- Returns what the life is then.
local life = redis.call('GET', KEYS[1])
local run_id, generation = string.match(life or '', '^(%S+) (%d+) ')
generation = tonumber(generation) or 0
if run_id == ARGV[1] and (ARGV[3] == '1' or generation > tonumber(ARGV[2])) then return life end
life = ARGV[1] .. ' ' .. string.format('%d 0', math.max(generation, tonumber(ARGV[2])) + 1)
redis.call('SET', KEYS[1], life)
return life
