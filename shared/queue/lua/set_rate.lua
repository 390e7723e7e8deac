#!lua flags=allow-oom
-- Change the channel's rate for all its senders, from the next start on, or restore their own setting.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 µs between two starts, 0 for no limit · 2 the rate as requested, "10/1s" or "off"; "" for the
--       senders' own setting
-- Result  1
-- Safe to repeat. A crash before: the old rate holds, and the API shows it. After: the new one.

make_wake_stream()
if ARGV[2] == '' then
  redis.call('HDEL', C .. ':config', 'gap_us', 'rate')
else
  redis.call('HSET', C .. ':config', 'gap_us', ARGV[1], 'rate', ARGV[2])
end
return 1
