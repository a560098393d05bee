-- Brings idempotency keys of a `stored` channel from the store. Many keys take several calls, all before the call that
-- lets anybody append.
--
-- KEYS: one per position.
-- ARGV: per key: position, ttl_s.
for index = 1, #KEYS do
  redis.call('SET', KEYS[index], ARGV[index * 2 - 1], 'EX', ARGV[index * 2])
end
return 1
