#!lua flags=allow-oom
-- Pause the channel: senders begin no more jobs. It also runs when Redis is full, because senders call it.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 reason
-- Result  1
-- Safe to repeat; the last reason stays.

make_wake_stream()
redis.call('SET', C .. ':paused', ARGV[1])
return 1
