-- Uses up a ticket. KEYS: the ticket. Returns its value, or nil if there is none. GETDEL would do the same, but older
-- lists of what an edge may do in Redis lack it.
local value = redis.call('GET', KEYS[1])
if value then redis.call('DEL', KEYS[1]) end
return value
