#!lua flags=allow-oom
-- Says that this Redis has what it had a second ago, or begins a new life of it. The keys belong to the whole server.
-- KEYS: beacon, life, store. ARGV: run id of this server, count and generation that the store keeps, pause_ms, name of
-- the store or nothing, name of another one whose place it takes.
-- Returns {count, generation, 1 if a life began, what is said of it}; {name, count} of another store: nothing was done.
local kept, kept_generation = tonumber(ARGV[2]), tonumber(ARGV[3])
local store = redis.call('GET', KEYS[3])
local another = store and ARGV[5] ~= '' and store ~= ARGV[5]
if another and store ~= ARGV[6] then return {store, redis.call('GET', KEYS[1]) or '0'} end
local count = redis.call('INCR', KEYS[1])
local life = redis.call('GET', KEYS[2])
local run_id, generation = string.match(life or '', '^(%S+) (%d+) ')
generation = tonumber(generation) or 0
local open_at = 0
if ARGV[5] ~= '' and store ~= ARGV[5] then redis.call('SET', KEYS[3], ARGV[5]) end
if count <= kept or generation < kept_generation or not run_id or another then
  -- Behind what the store saw, or empty: what `hot` logs hold here may have lost anything. Or the store is another one:
  -- every `stored` channel must be compared with it.
  generation = math.max(generation, kept_generation) + 1
  count = math.max(count, kept + 1)
  redis.call('SET', KEYS[1], string.format('%d', count))
elseif run_id ~= ARGV[1] then
  -- Started anew with all that the store knows of; edges that saw more may say so within the pause.
  local now = redis.call('TIME')
  open_at = now[1] * 1000 + math.floor(now[2] / 1000) + tonumber(ARGV[4])
else
  return {count, generation, 0, life}
end
life = ARGV[1] .. ' ' .. string.format('%d %d', generation, open_at)
redis.call('SET', KEYS[2], life)
return {count, generation, 1, life}
