#!lua flags=allow-oom
-- Resume a paused blast on this channel.
--
-- KEYS  the channel's hash tag
-- ARGV  1 blast id
-- Result  1 running, 0 where the blast is unknown here, ended or cancelled
-- Safe to repeat.

local key = C .. ':blast:' .. ARGV[1]
local v = redis.call('HMGET', key, 'total', 'ended_at', 'cancelled_at', 'scheduled_at', 'scheduled_whole')
if not v[1] or v[2] or v[3] then return 0 end
redis.call('HDEL', key, 'paused')
redis.call('SREM', C .. ':paused:blasts', ARGV[1])
local stream = C .. ':jobs:bulk:' .. ARGV[1]
if redis.call('EXISTS', stream) == 1 then
  serve(stream, math.max(now_us(), v[5] and tonumber(v[4]) * 1000 or 0))
end
ring_bell()
return 1
