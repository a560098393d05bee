-- Adds members, or replaces their entries. KEYS: see roster.lua; 10 generations, 11 leases; then the channels of each
-- member's user (zset); the clock. ARGV 6…: of each client, how, events (see zeros_of), grace_ms, user, client info, 1 if it was on a roster that is
-- lost, 1 if others are to be told of a new info, Unix ms at which the connection began (of a user's roster).
-- Nothing is done if the lease is over, or a later generation has begun: then it returns {}. What the same edge entered under
-- a later generation stays as it is.
-- Those who came are told in one message, then the updates: their infos as fields 1 of a protobuf message.
-- Returns of each: {1 if the roster grew or 0 if an entry was replaced, client whose place was taken, its "<edge>
-- <generation>"}.
if redis.call('HGET', KEYS[10], ARGV[1]) ~= ARGV[2] or not redis.call('ZSCORE', KEYS[11], ARGV[1]) then return {} end
local joined, updated = {}, {}
local function varint(number)
  if number < 128 then return string.char(number) end
  return string.char(number % 128 + 128) .. varint(math.floor(number / 128))
end
local function push(infos, info) infos[#infos + 1] = '\10' .. varint(#info) .. info end
local function entry_of(head, zeros, user, info)
  return head .. ' ' .. string.rep('0', zeros) .. #user .. '\n' .. user .. info
end
local function put(client, entry)
  redis.call('HSET', KEYS[1], client, entry)
  if in_order then redis.call('ZADD', KEYS[5], 0, client) end
end
-- A client of the user whose grace has begun: its place is free. Forgets it.
local function free_place(user)
  local waiting = user ~= '' and redis.call('HGET', KEYS[4], user)
  if not waiting then return nil end
  local place, rest
  for other in string.gmatch(waiting, '[^\n]+') do
    if not place and redis.call('ZSCORE', KEYS[3], other) then place = other
    elseif redis.call('ZSCORE', KEYS[3], other) then rest = rest and rest .. '\n' .. other or other end
  end
  if rest then redis.call('HSET', KEYS[4], user, rest) else redis.call('HDEL', KEYS[4], user) end
  local entry = place and redis.call('HGET', KEYS[1], place)
  if place then redis.call('ZREM', KEYS[3], place) end
  return entry and place, entry and split(entry)
end
local function replace(client, was, now, head, is_update)
  -- If its join was written, its leave will be.
  put(client, entry_of(head, now.events and now.zeros or was.zeros, now.user, now.info))
  if was.user ~= now.user and not is_user then
    if redis.call('HINCRBY', KEYS[2], was.user, -1) <= 0 then redis.call('HDEL', KEYS[2], was.user) end
    redis.call('HINCRBY', KEYS[2], now.user, 1)
  end
  redis.call('ZREM', KEYS[3], client)
  if now.events and not was.events and not as_user(now) then
    -- Not written before: an earlier version, or another configuration.
    if now.join then write(is_user and 'connect' or 'join', now.info) end
  elseif is_update and was.info ~= now.info and now.update then
    write('update', now.info)
  end
  if is_update and was.info ~= now.info and now.told then
    tell_leaves(unseen_before(client))
    push(updated, now.info)
  end
end
-- What a ClientInfo tells behind its fields 1 and 2, user and client.
local function shown(client, member)
  local fields = '\18' .. varint(#client) .. client
  if member.user ~= '' then fields = '\10' .. varint(#member.user) .. member.user .. fields end
  if string.sub(member.info, 1, #fields) ~= fields then return member.info end
  return string.sub(member.info, #fields + 1)
end
-- Who comes back as before is not told of, a bounded number of times. Else the leave of the old client and the join of the
-- new one are told; by user, an update.
local function take_place(client, place, was, now, head)
  local differs = shown(place, was) ~= shown(client, now)
  redis.call('HDEL', KEYS[1], place)
  if in_order then redis.call('ZREM', KEYS[5], place) end
  put(client, entry_of(head, (now.events or not as_user(now)) and now.zeros or was.zeros, now.user, now.info))
  local before = unseen_before(place)
  if was.told and not as_user(now) then before[#before + 1] = was.info end
  if as_user(now) then
    if differs and now.told then push(updated, now.info) end
    if differs and now.update then write('update', now.info) end
    return
  end
  if differs or not now.told or #before == 0 or #before > MOST_UNSEEN then
    tell_leaves(before)
    if now.told then push(joined, now.info) end
  else
    redis.call('HSET', KEYS[9], client, cmsgpack.pack(before))
  end
  if was.leave then write(is_user and 'disconnect' or 'leave', was.info) end
  if now.join then write(is_user and 'connect' or 'join', now.info) end
end
local function add(client, now, head, known, is_update)
  put(client, entry_of(head, now.zeros, now.user, now.info))
  local first = is_user or redis.call('HINCRBY', KEYS[2], now.user, 1) == 1 or not as_user(now)
  if now.occupied and not is_user and redis.call('HLEN', KEYS[1]) == 1 then write('occupied', '') end
  if known then
    if is_update and now.told then push(updated, now.info) end
    if is_update and now.update then write('update', now.info) end
  elseif first then
    if now.told then push(joined, now.info) end
    if now.join then write(is_user and 'connect' or 'join', now.info) end
  end
end
-- When the user came online: the earliest time at which a connection began, of those that followed one another.
local function note_since(began, is_first)
  began = began > 0 and math.min(began, ms) or ms
  local since = not is_first and tonumber(redis.call('HGET', KEYS[6], 'since'))
  if not since or began < since then redis.call('HSET', KEYS[6], 'since', string.format('%d', began)) end
  if is_first then redis.call('PERSIST', KEYS[6]) end
end
local function enter(at, channels)
  local client, known, is_update = ARGV[at], ARGV[at + 6] == '1', ARGV[at + 7] == '1'
  local head = ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. ARGV[at + 1] .. ' ' .. ARGV[at + 3]
  local events = tonumber(ARGV[at + 2])
  local now = split(entry_of(head, zeros_of(events), ARGV[at + 4], ARGV[at + 5]))
  now.join, now.update, now.occupied = bit.band(events, 1) > 0, bit.band(events, 4) > 0, bit.band(events, 8) > 0
  local old = redis.call('HGET', KEYS[1], client)
  local was = old and split(old)
  if was and was.edge == ARGV[1] and was.generation > tonumber(ARGV[2]) then return {0, '', ''} end  -- comes too late
  local result = {0, '', ''}
  if was then
    replace(client, was, now, head, is_update)
  else
    local place, its = free_place(now.user)
    if place then
      take_place(client, place, its, now, head)
      result = {0, place, its.owner}
    else
      add(client, now, head, known, is_update)
      result = {1, '', ''}
    end
  end
  if is_user then
    note_since(tonumber(ARGV[at + 8]), result[1] == 1 and redis.call('HLEN', KEYS[1]) == 1)
  elseif now.user ~= '' then
    redis.call('ZADD', channels, 0, ARGV[5])
  end
  return result
end
local found = {}
for at = 6, #ARGV, 9 do found[#found + 1] = enter(at, KEYS[12 + (at - 6) / 9]) end
set_order()
if #joined > 0 then redis.call('PUBLISH', ARGV[3], 'J' .. table.concat(joined)) end
if #updated > 0 then redis.call('PUBLISH', ARGV[3], 'U' .. table.concat(updated)) end
return found
