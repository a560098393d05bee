-- Takes a member away, or starts its grace. KEYS: see roster.lua. ARGV 6…: client; how (clean, unclean, reap, due); the longest
-- grace in ms, or ''; of a member that was on a roster that is lost, else '': its info, its user, 1 if its leave is told,
-- events (see zeros_of), 1 if it is told by user.
-- `reap`: only an entry of that edge and generation; `due`: only one whose grace is over.
-- Returns {removed, "<edge> <generation>" of the entry, ms left of its grace, the user, if none of its clients is left}.
local client, how = ARGV[6], ARGV[7]
local function last_seen(count)  -- of clients that are left
  if not is_user or count > 0 then return end
  redis.call('HSET', KEYS[6], 'seen', string.format('%d', ms))
  redis.call('HDEL', KEYS[6], 'since')
  redis.call('EXPIRE', KEYS[6], SEEN_S)
end
local function write_leave(info)
  write(is_user and 'disconnect' or 'leave', info)
end
local entry = redis.call('HGET', KEYS[1], client)
if not entry then
  local info, user, told, events, by_user = ARGV[9], ARGV[10], ARGV[11] == '1', tonumber(ARGV[12]) or 0, ARGV[13] == '1'
  local others = by_user and user ~= '' and redis.call('HEXISTS', KEYS[2], user) == 1
  if told and not others then redis.call('PUBLISH', ARGV[3], 'l' .. info) end
  if bit.band(events, 2) > 0 and not others then write_leave(info) end
  if bit.band(events, 16) > 0 and not is_user and redis.call('HLEN', KEYS[1]) == 0 then write('vacated', '') end
  if how == 'clean' or how == 'unclean' then last_seen(redis.call('HLEN', KEYS[1])) end  -- the sweep finds members long after others took their places
  return {0, '', 0, ''}
end
local was = split(entry)
local grace = math.min(was.grace, tonumber(ARGV[8]) or math.huge)
if how ~= 'due' and (was.edge ~= ARGV[1] or was.generation > tonumber(ARGV[2])) then return {0, was.owner, 0, ''} end
local due = tonumber(redis.call('ZSCORE', KEYS[3], client))
if how == 'due' then
  if not due then return {0, was.owner, 0, ''} end
  if due > ms then return {0, was.owner, due - ms, ''} end
elseif how == 'unclean' and grace > 0 then
  if due and due > ms then return {0, was.owner, due - ms, ''} end
  if not due then
    redis.call('ZADD', KEYS[3], string.format('%d', ms + grace), client)
    if was.user ~= '' then
      local waiting = redis.call('HGET', KEYS[4], was.user)
      redis.call('HSET', KEYS[4], was.user, waiting and waiting .. '\n' .. client or client)
    end
    return {0, was.owner, grace, ''}
  end  -- a repeat, after its grace: who would have ended it may not know of it
end
redis.call('HDEL', KEYS[1], client)
if due then redis.call('ZREM', KEYS[3], client) end
if in_order then redis.call('ZREM', KEYS[5], client) end
local count = redis.call('HLEN', KEYS[1])
local last = count == 0
if not is_user then last = redis.call('HINCRBY', KEYS[2], was.user, -1) <= 0 end
if last then
  if not is_user then redis.call('HDEL', KEYS[2], was.user) end
  redis.call('HDEL', KEYS[4], was.user)
end
if not is_user then
  set_order()
  tell_leaves(unseen_before(client))
  if count == 0 then redis.call('DEL', KEYS[9]) end  -- an earlier version may have left something
end
if last or not as_user(was) then
  if was.told then redis.call('PUBLISH', ARGV[3], 'l' .. was.info) end
  if was.leave then write_leave(was.info) end
end
if was.vacated and not is_user and count == 0 then write('vacated', '') end
last_seen(count)
return {1, was.owner, 0, last and not is_user and was.user or ''}
