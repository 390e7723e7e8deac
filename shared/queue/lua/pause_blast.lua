#!lua flags=allow-oom
-- Pause a blast on this channel: its own stream leaves the ring, and `begin` refuses its jobs in other streams.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 blast id · 2 reason · 3 head of the event batch
-- Result  1 paused, 0 if the blast is unknown here, ended or cancelled
-- Safe to repeat; the last reason stays. The pause and its event are written together: a crash before leaves neither; a
-- repeated call with the same reason adds no second event.

make_wake_stream()
local key = C .. ':blast:' .. ARGV[1]
local v = redis.call('HMGET', key, 'total', 'ended_at', 'cancelled_at', 'paused')
if not v[1] or v[2] or v[3] then return 0 end
redis.call('HSET', key, 'paused', ARGV[2])
gauge_paused(key)
for _, index in ipairs({ ':ring', ':starts' }) do redis.call('ZREM', C .. index, C .. ':jobs:bulk:' .. ARGV[1]) end
if v[4] ~= ARGV[2] then
  local now_ms = math.floor(now_us() / 1000)
  emit(ARGV[3], { cmsgpack.pack({ 'blast_changed', now_ms, ARGV[1], 'paused', ARGV[2] }) })
end
return 1
