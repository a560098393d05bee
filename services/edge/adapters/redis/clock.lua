-- Time of this server; loaded in front of scripts that need it. `now_us()` returns µs since 14 November 2023, 22:13:20
-- UTC: a number that is small enough for fractions of a µs to be exact in a double.
local function now_us()
  local now = redis.call('TIME')
  return (now[1] - 1700000000) * 1000000 + now[2]
end
