#!lua flags=allow-oom
-- Renew a sender's heartbeat and publish its state.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 sender · 2 ms until it lapses · 3 the sender's state (JSON) · 4 "1" for the first
-- Result  1 if the heartbeat had held (or is the first), 0 if it had lapsed
-- A crash before or after: the heartbeat lapses, and other senders reap this one.

make_wake_stream()
local key = C .. ':sender:' .. ARGV[1]
local held = redis.call('EXISTS', key)
redis.call('SET', key, ARGV[3], 'PX', ARGV[2])
redis.call('HSET', C .. ':senders', ARGV[1], ARGV[3])
if ARGV[4] == '1' then redis.call('SADD', held_key(ARGV[1]), '') end
redis.call('PEXPIRE', held_key(ARGV[1]), 86400000) -- in case no sender ever reaps it
redis.call('PEXPIRE', C .. ':once:' .. ARGV[1], ONCE_MS)
if ARGV[4] == '1' then return 1 end
return held
