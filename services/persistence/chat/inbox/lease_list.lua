-- Gives a token to who is about to read a user's list from the store, unless somebody has one, or the list changes.
--
-- KEYS: list.
-- ARGV: token, seconds for which it is good, token of a list that is of no use ('': none).
-- Returns 1 if it was given.
if ARGV[3] ~= '' and redis.call('HGET', KEYS[1], 'v') == ARGV[3] then redis.call('DEL', KEYS[1]) end
if redis.call('HSETNX', KEYS[1], 'v', ARGV[1]) == 0 then return 0 end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
