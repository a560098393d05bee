-- Put before the text of enter.lua and leave.lua, behind clock.lua and the feed's lifecycle.lua: what both do with a roster.
--
-- KEYS 1 to 9: roster (hash: client → entry), users (hash: user → number of clients), gone (zset: clients by the end of their
-- grace), gone users (hash: user → such clients), order (zset: all clients, if they are many), state (hash of a user's
-- roster: `since`, `seen`, ms), number (of the last lifecycle event), stream of lifecycle events, unseen (hash: client → infos of those whose
-- places it took unseen, packed). The last key is the clock.
-- ARGV 1 to 5: edge, generation, pub/sub channel, most entries of the stream, channel, or '' for the roster of a user's
-- connections.
--
-- An entry is "<edge> <generation> <how> <grace_ms> <bytes of user>\n<user><info>". `how` is one digit. 0: nobody is told of
-- joins and leaves, 1: they are told, 2: the first join of a user and the last leave are told, 3: nobody is told, but they
-- count by user. Of a user's connection: 0: active, 2: away. The bytes of the user begin with needless zeros if lifecycle
-- events are written: one, and two more for its leave, and four more for `vacated`. Earlier versions read that as the same
-- number; of `how` they know 0 and 1, and tell the leaves of 1.
local LARGE, SMALL = 1000, 500  -- from how many clients on they are kept in order, and below how many no longer
local MOST_UNSEEN = 8  -- so many places of others a client takes unseen, one after another
local SEEN_S = 2592000  -- how long it is known when a user was last online
local is_user = ARGV[5] == ''
local function split(entry)
  local head, edge, generation, how, grace, length = string.match(entry, '^((%S+) (%d+) (%d) (%d+) (%d+)\n)')
  how = tonumber(how)
  local zeros = #string.match(length, '^(0*)%d')
  return {
    edge = edge, generation = tonumber(generation), owner = edge .. ' ' .. generation, grace = tonumber(grace),
    told = not is_user and (how == 1 or how == 2), by_user = not is_user and how >= 2,
    events = zeros > 0, zeros = zeros, leave = bit.band(zeros, 2) > 0, vacated = bit.band(zeros, 4) > 0,
    user = string.sub(entry, #head + 1, #head + tonumber(length)), info = string.sub(entry, #head + tonumber(length) + 1),
  }
end
local function write(kind, info) tell(KEYS[8], ARGV[4], KEYS[7], kind, ARGV[5], info, ms) end
-- How many zeros an entry has, by the events that are written: a sum of 1 join, 2 leave, 4 update, 8 occupied, 16 vacated.
local function zeros_of(events)
  if events == 0 then return 0 end
  return 1 + bit.band(events, 2) + (bit.band(events, 16) > 0 and 4 or 0)
end
-- Whether a member counts as one of its user. All others are told of one by one, also the anonymous.
local function as_user(member) return member.by_user and member.user ~= '' end
local function tell_leaves(infos)
  for _, info in ipairs(infos) do redis.call('PUBLISH', ARGV[3], 'l' .. info) end
end
-- Those whose places a client took unseen. Subscribers may still have any of them: their leaves are told before anything
-- else is told of the client. Forgets them.
local function unseen_before(client)
  local packed = redis.call('HGET', KEYS[9], client)
  if not packed then return {} end
  redis.call('HDEL', KEYS[9], client)
  return cmsgpack.unpack(packed)
end
-- Nobody lists a user's connections in pages, so they are not kept in order; nor is anybody told of them by pub/sub.
local in_order = not is_user and redis.call('ZCARD', KEYS[5]) > 0
local function set_order()
  if is_user then return end
  local count = redis.call('HLEN', KEYS[1])
  if in_order and count < SMALL then
    redis.call('DEL', KEYS[5])
  elseif not in_order and count > LARGE and count <= 2 * LARGE then  -- more than that: whoever lists them puts them in order
    for _, client in ipairs(redis.call('HKEYS', KEYS[1])) do redis.call('ZADD', KEYS[5], 0, client) end
  end
end
