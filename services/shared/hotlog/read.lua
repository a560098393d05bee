-- One page, never past what is readable. KEYS: log, meta. ARGV: class, since offset, limit, 1 for reverse, generation of
-- `hot` logs or life of Redis for a `stored` one. Returns {epoch, top, entries}; nothing where there is no such log.
local known = redis.call('HMGET', KEYS[2], 'epoch', 'top', 'stored', 'life')
local stored = ARGV[1] == 'stored'
local top = tonumber(stored and known[3] or known[2])
if not known[1] or not top then return {} end
if stored and known[4] ~= ARGV[5] then return {} end
if not stored and string.match(known[1], '^(%d+)%.') ~= ARGV[5] then return {} end
local since, entries = tonumber(ARGV[2]), {}
if ARGV[4] == '1' then
  local newest = (since == 0 or since > top) and top or since - 1
  if newest > 0 then
    entries = redis.call('XREVRANGE', KEYS[1], string.format('%d', newest) .. '-0', '-', 'COUNT', ARGV[3])
  end
elseif since < top then
  entries = redis.call('XRANGE', KEYS[1], string.format('%d', since + 1) .. '-0', string.format('%d', top) .. '-0', 'COUNT', ARGV[3])
end
return {known[1], top, entries}
