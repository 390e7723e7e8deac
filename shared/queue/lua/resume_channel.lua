#!lua flags=allow-oom
-- Resume the channel.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  none
-- Result  1 if it was paused, else 0
-- Safe to repeat.

local was = redis.call('DEL', C .. ':paused')
wake_senders()
return was
