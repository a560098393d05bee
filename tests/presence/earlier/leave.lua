-- Takes a member away, or starts its grace. KEYS: as enter.lua, clock. ARGV: client, how (clean, unclean, reap, due), edge,
-- generation, pub/sub channel, the info to publish where there is no entry, or '', the longest grace in ms, or ''.
-- `reap`: only an entry of that edge and generation; `due`: only one whose grace is over.
-- Returns {removed, "<edge> <generation>" of the entry, ms left of its grace}.
local entry = redis.call('HGET', KEYS[1], ARGV[1])
if not entry then
  if ARGV[6] ~= '' then redis.call('PUBLISH', ARGV[5], 'l' .. ARGV[6]) end
  return {0, '', 0}
end
local head, edge, generation, announce, grace, length = string.match(entry, '^((%S+) (%d+) (%d) (%d+) (%d+)\n)')
local user = string.sub(entry, #head + 1, #head + tonumber(length))
local info = string.sub(entry, #head + tonumber(length) + 1)
local owner = edge .. ' ' .. generation
grace = math.min(tonumber(grace), tonumber(ARGV[7]) or math.huge)
if ARGV[2] ~= 'due' and (edge ~= ARGV[3] or tonumber(generation) > tonumber(ARGV[4])) then return {0, owner, 0} end
local due = tonumber(redis.call('ZSCORE', KEYS[3], ARGV[1]))
if ARGV[2] == 'due' then
  if not due then return {0, owner, 0} end
  if due > ms then return {0, owner, due - ms} end
elseif ARGV[2] == 'unclean' and grace > 0 then
  if due and due > ms then return {0, owner, due - ms} end
  if not due then
    redis.call('ZADD', KEYS[3], string.format('%d', ms + grace), ARGV[1])
    if user ~= '' then
      local waiting = redis.call('HGET', KEYS[4], user)
      redis.call('HSET', KEYS[4], user, waiting and waiting .. '\n' .. ARGV[1] or ARGV[1])
    end
    return {0, owner, grace}
  end  -- a repeat, after its grace: who would have ended it may not know of it
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
if redis.call('HINCRBY', KEYS[2], user, -1) <= 0 then
  redis.call('HDEL', KEYS[2], user)
  redis.call('HDEL', KEYS[4], user)
end
if announce == '1' then redis.call('PUBLISH', ARGV[5], 'l' .. info) end
return {1, owner, 0}
