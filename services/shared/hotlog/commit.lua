#!lua flags=allow-oom
-- Makes entries of a `stored` channel readable, and publishes them in the order of offsets.
--
-- The store must have them, unless ARGV[7] is 'q': then all of them must be such that may become readable before (field
-- `q`), and the meta has in `shown` up to where they are. What is above `stored` is never cut off, and does not expire. The
-- field says how many bytes of such entries there were up to this one, and `stored_bytes` how many of these are stored.
--
-- KEYS: log, meta, and, if the feed may tell of the channel, its stream of the feed, and the head of a conversation (see
--   services/persistence/chat/inbox), which goes with an event that erases something.
-- ARGV: epoch, upto, history_size, pub/sub channel, token of the incarnation in which they were numbered, most entries
--   that one call publishes, 'q' or ''; with a stream also entries that it keeps, and the channel.
-- Returns the readable top, which is below `upto` if there are more: call again then; -1 if epoch or incarnation is another
-- one, or an entry is missing; -2 if the feed must tell of an entry, and there is no stream; -3 if an entry must be stored
-- first. If it is negative, nothing was done.
local log, meta = KEYS[1], KEYS[2]
local known
if KEYS[3] then
  known = redis.call('HMGET', meta, 'epoch', 'top', 'stored', 'life', 'shown', 'lives', 'queued_bytes', 'told', 'hinted')
else
  known = redis.call('HMGET', meta, 'epoch', 'top', 'stored', 'life', 'shown', 'lives', 'queued_bytes')
end
local stored, upto, shown, early = tonumber(known[3]), tonumber(ARGV[2]), tonumber(known[5]), ARGV[7] == 'q'
if known[1] ~= ARGV[1] or not stored or known[4] ~= ARGV[5] then return -1 end
if upto > tonumber(known[2]) then return -1 end
local readable = math.max(stored, shown or 0)
if upto <= (early and readable or stored) then return readable end
local entries = {}
if upto > readable then
  upto = math.min(upto, readable + tonumber(ARGV[6]))
  entries = redis.call('XRANGE', log, string.format('%d-0', readable + 1), string.format('%d-0', upto))
  if #entries ~= upto - readable then return -1 end
end
local kind = nil  -- 'a': the feed tells of them; 'b': as hidden entries
for _, entry in ipairs(entries) do
  local field = entry[2][9]
  if field == 'a' or field == 'b' then kind = field end
  if early then
    local may = false
    for at = 9, #entry[2], 2 do may = may or entry[2][at] == 'q' end
    if not may then return -3 end
  end
end
if kind and not KEYS[3] then return -2 end
-- All writes come before the first publication: a Redis that takes none refuses here, before anybody has heard what
-- can't be read.
local top = string.format('%d', upto)
if kind then
  local told, erases, id = kind == 'b' and 'hinted' or 'told', false, nil
  local function tell(entry)
    local fields, said = entry[2], {}
    local hidden = fields[9] == 'b' or (kind == 'b' and fields[9] ~= 'a')
    local author = (fields[9] == 'a' or fields[9] == 'b') and fields[10] or ''
    for at = 9, #fields, 2 do
      if fields[at] == 'c' then
        said[#said + 1], said[#said + 2] = 'l', fields[at + 1]
        erases = erases or tonumber(string.match(fields[at + 1], '^%d+')) % 8 >= 4
      elseif fields[at] == 'u' then
        said[#said + 1], said[#said + 2] = 'u', fields[at + 1]
      end
    end
    id = redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[8], '*', 'c', ARGV[9], 'e', known[1], hidden and 'h' or 'o',
      string.match(entry[1], '^%d+'), 'a', author, unpack(said))
  end
  -- What a persistence without the feed has committed in between, during an update, is made up for.
  local last = tonumber(known[kind == 'b' and 9 or 8])
  if last and last < readable then
    local from, to = string.format('%d-0', last + 1), string.format('%d-0', readable)
    for _, entry in ipairs(redis.call('XRANGE', log, from, to, 'COUNT', 1000)) do tell(entry) end
  end
  for _, entry in ipairs(entries) do tell(entry) end
  redis.call('HSET', meta, early and 'shown' or 'stored', top, told, top, 'fed', top .. ' ' .. id)
  if erases then redis.call('DEL', KEYS[4]) end
else
  redis.call('HSET', meta, early and 'shown' or 'stored', top)
end
if early then redis.call('PERSIST', log) end
for _, entry in ipairs(entries) do
  redis.call('PUBLISH', ARGV[4], 'p' .. known[1] .. ' ' .. string.match(entry[1], '^%d+') .. ' ' .. entry[2][4])
end
if early then return upto end
if known[7] and upto < tonumber(known[2]) then
  local last = redis.call('XRANGE', log, string.format('%d-0', upto), string.format('%d-0', upto))[1]
  for at = 9, last and #last[2] or 0, 2 do
    if last[2][at] == 'q' then redis.call('HSET', meta, 'stored_bytes', last[2][at + 1]) end
  end
end
-- Cut at every sixteenth offset: up to fifteen more are kept.
readable = math.max(readable, upto)
local oldest = math.min(readable - tonumber(ARGV[3]), upto) + 1
if oldest > 1 and math.floor(upto / 16) > math.floor(stored / 16) then
  redis.call('XTRIM', log, 'MINID', string.format('%d-0', oldest))
end
if shown and known[6] and upto >= shown and stored < shown then  -- all of it is stored: it may expire again
  redis.call('EXPIRE', log, known[6] + math.floor(known[6] / 16) + 60)
end
return readable
