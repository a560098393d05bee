-- Members whose grace has ended. KEYS: due (zset), clock. ARGV: at most so many.
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', ms), 'LIMIT', 0, ARGV[1])
