#!lua flags=allow-oom
-- Resume a paused blast on this channel.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 blast id · 2 head of the event batch
-- Result  1 running, 0 if the blast is unknown here, ended or cancelled
-- Safe to repeat. The resume and its event are written together: a crash before leaves neither; a repeated call adds no
-- second event.

local key = C .. ':blast:' .. ARGV[1]
local v = redis.call('HMGET', key, 'total', 'ended_at', 'cancelled_at', 'scheduled_at', 'scheduled_whole')
if not v[1] or v[2] or v[3] then return 0 end
local was_paused = redis.call('HDEL', key, 'paused') == 1
gauge_paused(key)
local stream = C .. ':jobs:bulk:' .. ARGV[1]
if redis.call('EXISTS', stream) == 1 then
  local starts_at = v[5] and tonumber(v[4]) * 1000 or 0
  if starts_at > now_us() then serve_from(stream, starts_at) else serve(stream) end
end
wake_senders()
if was_paused then
  local now_ms = math.floor(now_us() / 1000)
  emit(ARGV[2], { cmsgpack.pack({ 'blast_changed', now_ms, ARGV[1], 'resumed', '' }) })
end
return 1
