#!lua flags=allow-oom
-- Record whether jobs of this partition may be begun without asking the limits that several partitions share.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 the number of the change (`start_rate_change`) · 2 "1" if they may, "0" if they may not
-- Result  1; 0 if a later change was recorded before
-- Without a record they may not. A crash before: the former record holds. After: this one does. Safe to repeat.

make_wake_stream()
local last = redis.call('HGET', C .. ':config', 'told')
if last and tonumber(last) > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', C .. ':config', 'told', ARGV[1], 'permit', ARGV[2])
return 1
