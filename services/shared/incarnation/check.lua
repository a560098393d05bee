#!lua flags=allow-oom
-- An edge compares this Redis with what it knows of it, and says so.
--
-- KEYS: life (the incarnation), observed, observers, said, appends of this edge.
-- ARGV: name of the edge; generation, number of writes and ms of its last check (0: none); run id that it uses, or '';
--   what it heard that the store had kept; highest number that an append of this edge is known to have.
-- Returns {run id, ms, incarnation, number of writes, what the store had kept, 1 if a generation began since something
--   is missing, number of appends of this edge}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
local incarnation = redis.call('GET', KEYS[1])
local of_run, generation = string.match(incarnation or '', '^(%S+) (%d+) ')
generation = tonumber(generation) or 0
local found = redis.call('HMGET', KEYS[2], 'writes', 'newest', 'kept', 'stretch')
local writes, newest, kept = tonumber(found[1]) or 0, tonumber(found[2]) or 0, found[3] or ''
local known_generation, known_writes, known_ms = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local appends = tonumber(redis.call('HGET', KEYS[5], 'n')) or 0
local missing = known_generation > generation
  or (known_generation == generation and (known_writes > writes or tonumber(ARGV[7]) > appends))

-- What the store had kept must not go back either: whoever lives carries it over.
local store, count = string.match(ARGV[6], '^(%S+) (%d+)$')
local its_store, its_count = string.match(kept, '^(%S+) (%d+)$')
local more = store and (not its_store or (its_store == store and tonumber(its_count) < tonumber(count)))

local function say(of)
  local watched = known_generation == generation and known_ms > 0 and known_ms >= newest - 3000
  local what = missing and 'missing' or watched and 'watched' or 'new'
  redis.call('HSET', KEYS[4], ARGV[1], of .. ' ' .. what .. ' ' .. (more and ARGV[6] or ''))
  redis.call('EXPIRE', KEYS[4], 60)
end

if of_run ~= run_id and not (ARGV[5] == run_id and not of_run) then
  -- A run that nobody has judged. Nothing is changed in it but what is said: it may still be filled from a copy.
  say(run_id)
  return {run_id, now, incarnation or '', writes, more and ARGV[6] or kept, 0, appends}
end
if missing then
  generation = math.max(generation, known_generation) + 1
  incarnation = run_id .. ' ' .. string.format('%d 0', generation)
  redis.call('SET', KEYS[1], incarnation)
else
  -- It goes on under another replication id, and may have become the copy of another server: persistence asks who knows.
  local of_stretch, its_replid = string.match(found[4] or '', '^(%S+) (%S+)$')
  if of_stretch == run_id and its_replid ~= replid then say(replid) end
end
if more then
  kept = ARGV[6]
  redis.call('HSET', KEYS[2], 'kept', kept)
end
redis.call('HSET', KEYS[2], 'newest', string.format('%d', now))
redis.call('HSET', KEYS[3], ARGV[1], string.format('%d', now))
if redis.call('EXPIRE', KEYS[5], 86400) == 0 then  -- of an edge that is gone, it goes after a day
  redis.call('HSET', KEYS[5], 'n', 0)
  redis.call('EXPIRE', KEYS[5], 86400)
end
return {run_id, now, incarnation or '', writes, kept, missing and 1 or 0, appends}
