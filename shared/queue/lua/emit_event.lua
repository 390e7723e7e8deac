#!lua flags=allow-oom
-- Add batches of events to the channel's stream, also when Redis is full.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 … the packed batches
-- Result  the number of batches
-- A repeated call adds a batch twice under the same name; the logger applies it once.

make_wake_stream()
for i = 1, #ARGV do redis.call('XADD', C .. ':events', '*', 'd', ARGV[i]) end
return #ARGV
