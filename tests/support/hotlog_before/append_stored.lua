-- Numbers publications of one `stored` channel, with their time. Nobody reads them before commit.lua.
--
-- KEYS: log, meta, then one idempotency key per item.
-- ARGV: token of the incarnation in which the channel must have been compared with the store, history_ttl_s, key_ttl_s,
--   max_unstored, then per item: publication id, publication, user and key.
-- Returns {epoch, readable top, encoded time that was appended to each new publication, per item its offset}. An offset
--   is negative if an earlier publish with the key has it, and 0 if too much is not stored yet. {} if the channel must
--   be compared with the store first; then nothing was done.
local log, meta = KEYS[1], KEYS[2]
local known = redis.call('HMGET', meta, 'epoch', 'top', 'stored', 'life', 'rests', 'time')
local epoch, top, stored = known[1], tonumber(known[2]), tonumber(known[3])
if not epoch or not stored or known[4] ~= ARGV[1] then return {} end
if known[5] == '1' then  -- it is not to be forgotten while this is not stored
  redis.call('PERSIST', meta)
  redis.call('HSET', meta, 'rests', 0)
end
local time, stamped = stamp(known[6])
local results, before, max_unstored = {epoch, stored, stamped}, top, tonumber(ARGV[4])
for index = 3, #KEYS do
  local key, offset = KEYS[index], string.format('%d', top + 1)
  local place, full, position = epoch .. ' ' .. offset, top - stored >= max_unstored, nil
  if full then
    position = redis.call('GET', key)
  else
    position = redis.call('SET', key, place, 'EX', ARGV[3], 'NX', 'GET')  -- what it was, and set if it was nothing
  end
  local key_epoch, key_offset
  if position then key_epoch, key_offset = string.match(position, '^(%S+) (%d+)$') end
  if key_epoch == epoch then
    results[index + 1] = -tonumber(key_offset)
  elseif full then
    results[index + 1] = 0
  else
    if position then redis.call('SET', key, place, 'EX', ARGV[3]) end  -- of a log that is gone
    top = top + 1
    local at = 3 * index - 4
    redis.call('XADD', log, offset .. '-0', 'i', ARGV[at], 'p', ARGV[at + 1] .. stamped, 'k', ARGV[at + 2], 'n', key)
    results[index + 1] = top
  end
end
if top > before then
  redis.call('HSET', meta, 'top', string.format('%d', top), 'time', time)
  -- From the last publish on it lives for its time, and not shorter than keys that lead into it; up to a sixteenth and a
  -- minute longer: renewing is rare.
  local ttl = math.max(tonumber(ARGV[2]), tonumber(ARGV[3]))
  local longest, left = ttl + math.floor(ttl / 16) + 60, redis.call('TTL', log)
  if left < ttl or left > longest then redis.call('EXPIRE', log, longest) end
end
return results
