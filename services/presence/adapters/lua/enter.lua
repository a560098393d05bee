-- Adds a member. KEYS: roster, users, gone, gone users. ARGV: client, edge, generation, announce, grace_ms, user,
-- client info, pub/sub channel. An entry is "<edge> <generation> <announce> <grace_ms> <bytes of user>\n<user><info>".
-- Returns {1 if the roster grew or 0 if an entry was replaced, client whose place was taken, its "<edge> <generation>"}.
local function user_of(entry)
  local head, length = string.match(entry, '^(%S+ %d+ %d %d+ (%d+)\n)')
  return string.sub(entry, #head + 1, #head + tonumber(length))
end
local entry = ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. ARGV[5] .. ' ' .. #ARGV[6] .. '\n' .. ARGV[6] .. ARGV[7]
local old = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], entry)
if old then
  local was = user_of(old)
  if was ~= ARGV[6] then
    if redis.call('HINCRBY', KEYS[2], was, -1) <= 0 then redis.call('HDEL', KEYS[2], was) end
    redis.call('HINCRBY', KEYS[2], ARGV[6], 1)
  end
  redis.call('ZREM', KEYS[3], ARGV[1])
  return {0, '', ''}
end
local waiting = ARGV[6] ~= '' and redis.call('HGET', KEYS[4], ARGV[6])
if waiting then
  local place, rest
  for client in string.gmatch(waiting, '[^\n]+') do
    if not place and redis.call('ZSCORE', KEYS[3], client) then place = client
    elseif redis.call('ZSCORE', KEYS[3], client) then rest = rest and rest .. '\n' .. client or client end
  end
  if rest then redis.call('HSET', KEYS[4], ARGV[6], rest) else redis.call('HDEL', KEYS[4], ARGV[6]) end
  if place then
    local owner = string.match(redis.call('HGET', KEYS[1], place) or '', '^%S+ %d+') or ''
    redis.call('ZREM', KEYS[3], place)
    redis.call('HDEL', KEYS[1], place)
    return {0, place, owner}
  end
end
redis.call('HINCRBY', KEYS[2], ARGV[6], 1)
if ARGV[4] == '1' then redis.call('PUBLISH', ARGV[8], 'j' .. ARGV[7]) end
return {1, '', ''}
