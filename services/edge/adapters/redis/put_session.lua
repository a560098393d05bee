-- Notes in an entry of the session table what one edge says.
-- KEYS: entry: a line for each edge, `<edge> <when its last connection ended, Unix ms; 0: it has one>`, and perhaps
--   `- x<when a backend last closed one, Unix ms>`
-- ARGV: edge; its number, empty to remove the line, or '-' to leave it; how long the entry is kept, s; most lines of
--   edges; when a backend closed a connection, Unix ms, or 0
local edge, said, kept_s, most, closed = ARGV[1] .. ' ', ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local lines = {}
for line in string.gmatch(redis.call('GET', KEYS[1]) or '', '[^\n]+') do
  local before = string.match(line, '^%- x(%d+)')
  if before then
    closed = math.max(closed, tonumber(before))
  elseif said == '-' or string.sub(line, 1, #edge) ~= edge then
    lines[#lines + 1] = line
  end
end
if said ~= '' and said ~= '-' then lines[#lines + 1] = edge .. said end
local first = math.max(1, #lines - most + 1)
if closed > 0 then lines[#lines + 1] = string.format('- x%d', closed) end
if #lines == 0 then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], table.concat(lines, '\n', first), 'EX', kept_s)
end
