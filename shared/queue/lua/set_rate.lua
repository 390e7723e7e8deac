#!lua flags=allow-oom
-- Change the channel's rate for all its senders, from the next start on, or restore their own setting.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 µs between two starts, 0 for no limit · 2 the rate as requested, "10/1s" or "off"; "" for the
--       senders' own setting · 3 the number of the change (`start_rate_change`), "" for one that needs none
-- Result  the number under which partitions may be permitted to begin jobs without asking, if the rate is no limit; 0 if
--         nothing was changed, because another change has started since
-- Safe to repeat. A crash before: the old rate holds, and the API shows it. After: the new one.

make_wake_stream()
local key = C .. ':config'
if ARGV[3] ~= '' and redis.call('HGET', key, 'changes') ~= ARGV[3] then return 0 end
if ARGV[2] == '' then
  redis.call('HDEL', key, 'gap_us', 'rate')
else
  redis.call('HSET', key, 'gap_us', ARGV[1], 'rate', ARGV[2])
end
return redis.call('HINCRBY', key, 'changes', 1)
