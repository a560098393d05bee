#!lua flags=allow-oom
-- Heartbeat of persistence: counts up, and keeps the incarnation if Redis has what it had, or begins another one. The
-- keys are those of the whole platform, not of a channel.
--
-- KEYS: beacon (the heartbeat), life (the incarnation), store, observed, observers, said.
-- ARGV: highest counter and generation known; counter that the store has; its name or ''; generation, number of writes
--   and ms of the last heartbeat of this process (0: none); 1 to wait for edges that have watched an earlier run;
--   pause_ms; name of another store whose place ours takes; mark of the store's last restore, or ''.
-- Returns {counter, generation, incarnation or '' while it waits, number of writes, ms, what the store had kept};
--   {name, counter} of another store, and then nothing was done.
local kept, kept_generation = tonumber(ARGV[1]), tonumber(ARGV[2])
local store = redis.call('GET', KEYS[3])
local another = store and ARGV[4] ~= '' and store ~= ARGV[4]
if another and store ~= ARGV[10] then return {store, redis.call('GET', KEYS[1]) or '0'} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
local stretch = run_id .. ' ' .. replid
local count = redis.call('INCR', KEYS[1])
local incarnation = redis.call('GET', KEYS[2])
local of_run, generation = string.match(incarnation or '', '^(%S+) (%d+) ')
generation = tonumber(generation) or 0
if ARGV[4] ~= '' and store ~= ARGV[4] then redis.call('SET', KEYS[3], ARGV[4]) end

local found = redis.call('HMGET', KEYS[4], 'writes', 'newest', 'kept', 'stretch', 'restored')
local writes, newest, was_kept = tonumber(found[1]) or 0, tonumber(found[2]) or 0, found[3] or ''
local known_generation, known_writes, known_ms = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
-- The same run, unless it became the copy of another server meanwhile; older persistence noted no stretch.
local same = of_run == run_id and (not found[4] or found[4] == stretch or string.match(found[4], '^%S+') ~= run_id)
-- An edge was faster: what is missing has been told already.
local told = same and generation > math.max(kept_generation, known_generation)
local missing = (count <= kept and not told) or generation < kept_generation or known_generation > generation
  or (known_generation == generation and known_writes > writes)
local watched = known_generation == generation and known_ms > 0 and known_ms >= newest - 3000
if count <= kept then
  count = kept + 1
  redis.call('SET', KEYS[1], string.format('%d', count))
end

-- What edges say of a run that nobody has judged yet, or of the same one under another replication id.
local said, judged = {}, of_run == run_id and replid or run_id
if not same then
  local all = redis.call('HGETALL', KEYS[6])
  for index = 1, #all, 2 do
    local of, what, rest = string.match(all[index + 1], '^(%S+) (%S+) (.*)$')
    if of == judged then
      said[all[index]] = what
      missing = missing or what == 'missing'
      watched = watched or what == 'watched'
      if rest ~= '' then was_kept = rest end
    end
  end
end

local restored = (found[5] or '') ~= ARGV[11]  -- `stored` channels have other epochs
local named = ARGV[4] .. ARGV[11]

local function say(what)
  redis.call('HSET', KEYS[4], 'newest', string.format('%d', now), 'stretch', stretch)
  local its_store, its_count = string.match(was_kept, '^(%S+) (%d+)$')
  local keeps = was_kept
  if ARGV[4] ~= '' and (its_store ~= named or tonumber(its_count) < tonumber(ARGV[3])) then
    keeps = named .. ' ' .. ARGV[3]
  end
  if restored then redis.call('HSET', KEYS[4], 'restored', ARGV[11]) end
  if keeps ~= (found[3] or '') then redis.call('HSET', KEYS[4], 'kept', keeps) end
  if what ~= incarnation then
    redis.call('SET', KEYS[2], what)
    redis.call('DEL', KEYS[6])
  end
  return {count, generation, what, writes, now, was_kept}
end

if missing or another or restored or not of_run then
  -- Behind what somebody saw, or empty: what `hot` logs hold here may have lost anything. Or the store is another one,
  -- or was restored: every `stored` channel must be compared with it.
  generation = math.max(generation, kept_generation, known_generation) + 1
  return say(run_id .. ' ' .. string.format('%d 0', generation))
end
-- Whoever acknowledged anything shortly before the end must have looked for it here; one that died long before was
-- outlived by somebody who has seen what it did.
local absent = false
local all = redis.call('HGETALL', KEYS[5])
for index = 1, #all, 2 do
  local ms = tonumber(all[index + 1]) or 0
  if same and (now - ms > 10000 or ms - now > 4000) then
    redis.call('HDEL', KEYS[5], all[index])
  elseif not same and ms >= newest - 6000 and not said[all[index]] then
    absent = true
  end
end
if same then return say(incarnation) end
if watched and not absent then
  -- Started anew with all that anybody knows of. Edges of earlier versions may say so within the pause.
  return say(run_id .. ' ' .. string.format('%d %d', generation, now + tonumber(ARGV[9])))
end
if ARGV[8] == '1' then return {count, generation, '', writes, now, was_kept} end
-- Nobody who watched it until its end is there to say that nothing is missing: it can't be shown.
generation = math.max(generation, kept_generation, known_generation) + 1
return say(run_id .. ' ' .. string.format('%d 0', generation))
