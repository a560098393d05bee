-- Takes the mark of a change back, and deletes the list, unless others change it still.
--
-- If the mark has run out there may be a list again, or a token, of before the change: it goes as well.
--
-- KEYS: list.
-- ARGV: mark.
-- Returns 1 if nobody changes it any more.
redis.call('HDEL', KEYS[1], 'm' .. ARGV[1])
if redis.call('HGET', KEYS[1], 'v') == '!' and redis.call('HLEN', KEYS[1]) > 1 then return 0 end
redis.call('DEL', KEYS[1])
return 1
