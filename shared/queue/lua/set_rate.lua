#!lua flags=allow-oom
-- Change the channel's rate for all its senders, from the next start on.
--
-- KEYS  the channel's hash tag
-- ARGV  1 µs between two starts, 0 for no limit · 2 the rate as it was asked for, "10/1s" or "off"
-- Result  1
-- Safe to repeat. A crash before: the old rate holds, and is shown. After: the new one.

redis.call('HSET', C .. ':config', 'gap_us', ARGV[1], 'rate', ARGV[2])
return 1
