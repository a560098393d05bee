-- Takes tokens from a bucket (GCRA). KEYS: the bucket. ARGV: µs in which it gains a token; tokens of a full one; most and
-- least tokens to take. Returns the tokens that were taken: `least` to `most`, or 0 if there are fewer than `least`; and
-- the µs until there are `least`, if 0 were taken.
--
-- The value is when the bucket will be full, in µs of `now_us`. A missing one is full. The key goes a second after that
-- time, in case the clock is set back a little.
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local most, least = tonumber(ARGV[3]), tonumber(ARGV[4])
local now = now_us()
local kept = tonumber(redis.call('GET', KEYS[1]) or now)
-- No bucket is emptier than empty: if the clock was set back, or the limit made larger, nobody waits for longer.
local full_at = math.max(now, math.min(kept, now + burst * interval))
local taken = math.min(most, math.floor(burst - (full_at - now) / interval + 0.001))  -- fractions of a µs are rounded
if taken < least then taken = 0 end
full_at = full_at + taken * interval
if taken > 0 or kept > full_at then
  redis.call('SET', KEYS[1], string.format('%.3f', full_at), 'PX', math.ceil((full_at - now) / 1000) + 1000)
end
if taken > 0 then return {taken, 0} end
return {0, math.max(1, math.ceil(full_at - now + (least - burst) * interval))}
