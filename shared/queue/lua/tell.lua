#!lua flags=allow-oom
-- Add one batch of events to the channel's stream, where a full Redis must not keep it from being told.
--
-- KEYS  the channel's hash tag
-- ARGV  1 the packed batch
-- Result  the entry's id
-- Repeated, the batch comes twice under one name; the logger takes it once.

return redis.call('XADD', C .. ':events', '*', 'd', ARGV[1])
