#!lua flags=allow-oom
-- Pause the channel: no sender begins anything more. A full Redis must not keep a sender from saying so.
--
-- KEYS  1 the partition's bell · 2 a key that never exists
-- ARGV  1 reason
-- Result  1
-- Safe to repeat; the last reason stays.

make_wake_stream()
redis.call('SET', C .. ':paused', ARGV[1])
return 1
