-- Keeps the head of a conversation, if it holds for the newest readable position: an event that erases something has then
-- taken away what was there before, or comes later and takes this away.
--
-- KEYS: head, meta.
-- ARGV: epoch, position, head, ttl_s.
-- Returns 1 if it is kept.
local known = redis.call('HMGET', KEYS[2], 'epoch', 'stored', 'shown')
local readable = math.max(tonumber(known[2]) or -1, tonumber(known[3]) or -1)
if known[1] ~= ARGV[1] or readable ~= tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], ARGV[3], 'EX', ARGV[4])
return 1
