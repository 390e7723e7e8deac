#!lua flags=allow-oom
-- Give addresses the suppressions that they have in the first partition of the channel.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  threes: identity of the address · its value here when it was read, "" for none · its value in the first partition
-- Result  how many were changed
-- An address that has another value by now is left alone: its writer has reached this partition since, or will.
-- Safe to repeat.

make_wake_stream()
local key, changed = C .. ':suppressed', 0
for i = 1, #ARGV, 3 do
  local address, value = ARGV[i], ARGV[i + 2]
  if (redis.call('HGET', key, address) or '') == ARGV[i + 1] then
    if value == '' then redis.call('HDEL', key, address) else redis.call('HSET', key, address, value) end
    changed = changed + 1
  end
end
return changed
