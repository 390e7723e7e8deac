#!lua flags=allow-oom
-- Resume the channel.
--
-- KEYS  the channel's hash tag
-- ARGV  none
-- Result  1 if it was paused, else 0
-- Safe to repeat.

local was = redis.call('DEL', C .. ':paused')
ring_bell()
return was
