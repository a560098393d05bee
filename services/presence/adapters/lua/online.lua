-- Returns what is known of a user's connections: {how many, 1 if all are away, since, last seen}; times in ms, 0: none.
-- KEYS: roster, state. Of more than 1,000 connections it looks at about as many for who is away.
local count = redis.call('HLEN', KEYS[1])
if count == 0 then return {0, 0, 0, tonumber(redis.call('HGET', KEYS[2], 'seen') or 0)} end
local away = 1
for at, entry in ipairs(redis.call('HSCAN', KEYS[1], 0, 'COUNT', 1000)[2]) do
  if at % 2 == 0 and string.match(entry, '^%S+ %d+ (%d) ') ~= '2' then away = 0 end
end
return {count, away, tonumber(redis.call('HGET', KEYS[2], 'since') or 0), 0}
