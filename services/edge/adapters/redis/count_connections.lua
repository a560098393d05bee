-- Sets how many connections an edge holds of a name, and admits more if the sum over all edges allows it.
-- KEYS: the name. ARGV: edge; what it holds; how many more it wants; the cap; how long to keep it all, ms; then edges whose
-- numbers don't count any more. Returns how many the edge holds now, and the other edges that hold any.
-- The value is `<edge> <number> <edge> <number> …`.
local edge, held, wanted, cap = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local dead = {}
for place = 6, #ARGV do dead[ARGV[place]] = true end
local sum, kept, others = 0, {}, {}
for name, number in string.gmatch(redis.call('GET', KEYS[1]) or '', '(%S+) (%d+)') do
  if name ~= edge and not dead[name] then
    sum = sum + number
    kept[#kept + 1] = name .. ' ' .. number
    others[#others + 1] = name
  end
end
local own = math.max(held, math.min(held + wanted, cap - sum))
if own > 0 then kept[#kept + 1] = edge .. ' ' .. string.format('%d', own) end
if #kept > 0 then
  redis.call('SET', KEYS[1], table.concat(kept, ' '), 'PX', ARGV[5])
else
  redis.call('DEL', KEYS[1])
end
return {own, unpack(others)}
