-- Deletes the entries of a `hot` log; epoch and top stay.
--
-- KEYS: log, observed.
-- Returns the number of writes to `hot` logs.
if redis.call('XTRIM', KEYS[1], 'MAXLEN', 0) == 0 then return tonumber(redis.call('HGET', KEYS[2], 'writes')) or 0 end
return redis.call('HINCRBY', KEYS[2], 'writes', 1)  -- a Redis that goes back behind this has it all again
