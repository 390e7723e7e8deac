#!lua flags=allow-oom
-- Pause a blast on this channel: its own stream leaves the ring; `begin` refuses its jobs elsewhere.
--
-- KEYS  the channel's hash tag
-- ARGV  1 blast id · 2 reason
-- Result  1 paused, 0 where the blast is unknown here, ended or cancelled
-- Safe to repeat.

local key = C .. ':blast:' .. ARGV[1]
local v = redis.call('HMGET', key, 'total', 'ended_at', 'cancelled_at')
if not v[1] or v[2] or v[3] then return 0 end
redis.call('HSET', key, 'paused', ARGV[2])
redis.call('SADD', C .. ':paused:blasts', ARGV[1])
redis.call('ZREM', C .. ':ring', C .. ':jobs:bulk:' .. ARGV[1])
return 1
