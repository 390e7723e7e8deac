#!lua flags=allow-oom
-- Start a change of the channel's rate, or of what its partitions know of it, where several partitions share the limits.
--
-- KEYS  1 the stream of wake-ups of the limits' slot, which nothing reads · 2 a key that never exists
-- ARGV  1 "1" if partitions will be permitted to begin jobs without asking the limits, "0" if they will not · 2 the highest
--       number that the caller has seen in a partition
-- Result  the number of the change, which is higher than every one before; 0 if partitions may not be permitted that, since
--         a rate is in force
-- From then on `set_rate` refuses to complete a change that started earlier.
-- Safe to repeat. A crash before or after: nothing has changed.

make_wake_stream()
local config = redis.call('HMGET', C .. ':config', 'gap_us', 'changes')
if ARGV[1] == '1' and tonumber(config[1] or 0) > 0 then return 0 end
local number = math.max(tonumber(config[2] or 0), tonumber(ARGV[2])) + 1
redis.call('HSET', C .. ':config', 'changes', int(number))
return number
