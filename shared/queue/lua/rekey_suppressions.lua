#!lua flags=allow-oom
-- Move suppressions to the identity of their address: earlier versions stored them under the spelling.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS suppressions
-- ARGV  pairs: stored spelling · identity
-- Result  none
-- Safe to repeat. If the identity is suppressed as well, each scope keeps the longer suppression.

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
