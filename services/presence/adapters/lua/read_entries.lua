-- Put before the text of page.lua and entries.lua. Returns the entries of clients, '' for those that are not there, as many as
-- have `most` bytes, one at least. Who is not there is taken out of the order. KEYS: roster, order.
local AT_ONCE = 50  -- so many entries more than it returns are read at most: one may have a MiB
local function read_entries(clients, most)
  local found, size = {}, 0
  for from = 1, #clients, AT_ONCE do
    local to = math.min(from + AT_ONCE - 1, #clients)
    for at, entry in ipairs(redis.call('HMGET', KEYS[1], unpack(clients, from, to))) do
      if not entry then redis.call('ZREM', KEYS[2], clients[from + at - 1]) end
      size = size + #(entry or '')
      if #found > 0 and size > most then return found end
      found[#found + 1] = entry or ''
    end
  end
  return found
end
