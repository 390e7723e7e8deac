#!lua flags=allow-oom
-- A server has accepted a message: its run of refusals, if there is one, has ended.
--
-- KEYS  1 the partition's bell · 2 a key that never exists
-- ARGV  1 server
-- Result  1 if there was a run, else 0
-- Safe to repeat.

return redis.call('DEL', C .. ':refused:' .. ARGV[1])
