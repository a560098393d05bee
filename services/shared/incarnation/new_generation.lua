#!lua flags=allow-oom
-- Begins a new generation of `hot` logs: something acknowledged is missing, or nobody can tell.
--
-- KEYS: life (the incarnation).
-- ARGV: run id of this server, highest generation known, 1: only if the incarnation is of another run.
-- Returns the incarnation that holds now.
local incarnation = redis.call('GET', KEYS[1])
local run_id, generation = string.match(incarnation or '', '^(%S+) (%d+) ')
generation = tonumber(generation) or 0
if run_id == ARGV[1] and (ARGV[3] == '1' or generation > tonumber(ARGV[2])) then return incarnation end
incarnation = ARGV[1] .. ' ' .. string.format('%d 0', math.max(generation, tonumber(ARGV[2])) + 1)
redis.call('SET', KEYS[1], incarnation)
return incarnation
