-- Adds members. KEYS: roster, users, gone, gone users. ARGV: edge, generation, pub/sub channel; then of each: client,
-- announce, grace_ms, user, client info, 1 if it was on a roster that is lost. An entry is "<edge> <generation> <announce>
-- <grace_ms> <bytes of user>\n<user><info>". Those who came are told in one message: their infos as fields 1 of a protobuf
-- message.
-- What the same edge entered under a later generation stays as it is.
-- Returns of each: {1 if the roster grew or 0 if an entry was replaced, client whose place was taken, its "<edge>
-- <generation>"}.
local function user_of(entry)
  local head, length = string.match(entry, '^(%S+ %d+ %d %d+ (%d+)\n)')
  return string.sub(entry, #head + 1, #head + tonumber(length))
end
local function varint(number)
  if number < 128 then return string.char(number) end
  return string.char(number % 128 + 128) .. varint(math.floor(number / 128))
end
local function enter(client, announce, grace, user, info)
  local entry = ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. announce .. ' ' .. grace .. ' ' .. #user .. '\n' .. user .. info
  local old = redis.call('HGET', KEYS[1], client)
  local its_edge, its_generation = string.match(old or '', '^(%S+) (%d+) ')
  if its_edge == ARGV[1] and tonumber(its_generation) > tonumber(ARGV[2]) then return {0, '', ''} end  -- comes too late
  redis.call('HSET', KEYS[1], client, entry)
  if old then
    local was = user_of(old)
    if was ~= user then
      if redis.call('HINCRBY', KEYS[2], was, -1) <= 0 then redis.call('HDEL', KEYS[2], was) end
      redis.call('HINCRBY', KEYS[2], user, 1)
    end
    redis.call('ZREM', KEYS[3], client)
    return {0, '', ''}
  end
  local waiting = user ~= '' and redis.call('HGET', KEYS[4], user)
  if waiting then
    local place, rest
    for other in string.gmatch(waiting, '[^\n]+') do
      if not place and redis.call('ZSCORE', KEYS[3], other) then place = other
      elseif redis.call('ZSCORE', KEYS[3], other) then rest = rest and rest .. '\n' .. other or other end
    end
    if rest then redis.call('HSET', KEYS[4], user, rest) else redis.call('HDEL', KEYS[4], user) end
    if place then
      local owner = string.match(redis.call('HGET', KEYS[1], place) or '', '^%S+ %d+') or ''
      redis.call('ZREM', KEYS[3], place)
      redis.call('HDEL', KEYS[1], place)
      return {0, place, owner}
    end
  end
  redis.call('HINCRBY', KEYS[2], user, 1)
  return {1, '', ''}
end
local found, joined = {}, {}
for at = 4, #ARGV, 6 do
  local info = ARGV[at + 4]
  local result = enter(ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], info)
  found[#found + 1] = result
  local came = result[1] == 1 and ARGV[at + 5] == ''
  if came and ARGV[at + 1] == '1' then joined[#joined + 1] = '\10' .. varint(#info) .. info end
end
if #joined > 0 then redis.call('PUBLISH', ARGV[3], 'J' .. table.concat(joined)) end
return found
