-- Returns the entries of clients: see read_entries.lua. KEYS: roster, order. ARGV: most bytes, then clients.
local most = tonumber(table.remove(ARGV, 1))
return read_entries(ARGV, most)
