#!lua flags=allow-oom
-- Store suppressions under the identity of their address: earlier versions stored them as the address was spelled.
--
-- KEYS  1 the partition's bell · 2 a key that never exists
-- PARTS suppressions
-- ARGV  pairs: stored spelling · identity
-- Result  none
-- Safe to repeat. Where the identity is suppressed as well, each scope keeps the suppression that lasts longer.

make_wake_stream()
local now_ms = math.floor(now_us() / 1000)
for i = 1, #ARGV, 2 do
  local stored = redis.call('HGET', C .. ':suppressed', ARGV[i])
  if stored then
    for _, one in ipairs(suppressions_of(stored)) do store_suppression(ARGV[i + 1], one, now_ms) end
    redis.call('HDEL', C .. ':suppressed', ARGV[i])
  end
end
return 'OK'
