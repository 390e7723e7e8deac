#!lua flags=allow-oom
-- Renew a sender's lease and say what it is doing.
--
-- KEYS  1 the partition's bell · 2 a key that never exists
-- ARGV  1 sender · 2 ms that the lease lasts · 3 what the sender says of itself (JSON) · 4 "1" for the first
-- Result  1 if the lease had held (or is the first), 0 if it had lapsed in between
-- A crash before or after: the lease lapses, and others reap.

make_wake_stream()
local key = C .. ':sender:' .. ARGV[1]
local held = redis.call('EXISTS', key)
redis.call('SET', key, ARGV[3], 'PX', ARGV[2])
redis.call('HSET', C .. ':senders', ARGV[1], ARGV[3])
if ARGV[4] == '1' then redis.call('SADD', held_key(ARGV[1]), '') end
redis.call('PEXPIRE', held_key(ARGV[1]), 86400000) -- should nobody ever reap it
if ARGV[4] == '1' then return 1 end
return held
