-- Notes that a user began or stopped to type in a conversation, and says whether the others are to be told.
-- KEYS: what is known of the user there
-- ARGV: time, ms; 1 began, 0 stopped; shortest time between two beginnings that are told, ms; how long it is known, ms
-- Returns 1 if they are to be told.
local now = tonumber(ARGV[1])
local at, on = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) ([01])$')
at = tonumber(at) or 0
if at > now or now - at >= tonumber(ARGV[4]) then
    at, on = 0, '0'
end
if ARGV[2] == '1' then
    if at > 0 and now - at < tonumber(ARGV[3]) then
        return 0
    end
    at = now
elseif on ~= '1' then
    return 0
end
redis.call('SET', KEYS[1], string.format('%.0f %s', at, ARGV[2]), 'PX', ARGV[4])
return 1
