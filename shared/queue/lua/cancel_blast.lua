#!lua flags=allow-oom
-- Cancel a blast on this channel: it accepts no more jobs, `begin` refuses its waiting jobs, and the sweep ends them. The
-- blast's own stream gets turns, so that senders end the jobs that an interrupted sweep leaves.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 blast id · 2 head of the event batch · 3 ms to keep an ended blast · 4 field to set:
--       "cancelled_at" (the count is `cancelled`), or "incomplete_at": the blast ends with the jobs that were enqueued,
--       which are still sent
-- Result  1 done, 0 if the blast is unknown here or has ended
-- Safe to repeat. Its total becomes the number of enqueued jobs, so that its counts still add up. The mark and its event
-- are written together: a crash before leaves neither; a repeated call adds no second event.

make_wake_stream()
local key = C .. ':blast:' .. ARGV[1]
local v = redis.call('HMGET', key, 'total', 'ended_at', 'enqueued', ARGV[4])
if not v[1] or v[2] then return 0 end
local now_ms = math.floor(now_us() / 1000)
redis.call('HSET', key, ARGV[4], v[4] or int(now_ms), 'total', v[3] or '0')
if ARGV[4] == 'cancelled_at' then
  redis.call('HDEL', key, 'paused')
  gauge_paused(key)
  local stream = C .. ':jobs:bulk:' .. ARGV[1]
  redis.call('ZREM', C .. ':starts', stream)
  if redis.call('EXISTS', stream) == 1 then serve(stream) end
  wake_senders()
end
local events = {}
if not v[4] then
  local change = ARGV[4] == 'cancelled_at' and 'cancelled' or 'incomplete'
  events[1] = cmsgpack.pack({ 'blast_changed', now_ms, ARGV[1], change, '' })
end
end_if_complete(ARGV[1], now_ms, tonumber(ARGV[3]), events)
emit(ARGV[2], events)
return 1
