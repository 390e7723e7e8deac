#!lua flags=allow-oom
-- Add one batch of events to the channel's stream, also when Redis is full.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 the packed batch
-- Result  the entry's id
-- A repeated call adds the batch twice under the same name; the logger applies it once.

make_wake_stream()
return redis.call('XADD', C .. ':events', '*', 'd', ARGV[1])
