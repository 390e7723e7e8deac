#!lua flags=allow-oom
-- Cancel a blast on this channel: it takes no more jobs, and `begin` refuses what waits; the sweep ends it. Its own
-- stream keeps or gets its turns, so that senders end what a sweep that was killed has left.
--
-- KEYS  1 the partition's bell · 2 a key that never exists
-- ARGV  1 blast id · 2 head of the event batch · 3 ms that an ended blast is kept · 4 field to set:
--       "cancelled_at" (apart from the count `cancelled`), or "incomplete_at" to end it with what was enqueued, running on
-- Result  1 done, 0 where the blast is unknown here or ended
-- Safe to repeat. Its total becomes what was enqueued, so that its counts still add up. The mark and the event that
-- tells of it come about together: a crash before leaves neither, one after, or a repeat, finds and tells nothing new.

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
