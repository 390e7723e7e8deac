#!lua flags=allow-oom
-- Add one batch of events to the channel's stream, where a full Redis must not keep it from being told.
--
-- KEYS  1 the partition's bell · 2 a key that never exists
-- ARGV  1 the packed batch
-- Result  the entry's id
-- Repeated, the batch comes twice under one name; the logger takes it once.

make_wake_stream()
return redis.call('XADD', C .. ':events', '*', 'd', ARGV[1])
