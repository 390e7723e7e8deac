#!lua flags=allow-oom
-- Acknowledge and delete events whose effect is in the database. A full Redis must not refuse it, as it refuses what
-- is queued in a MULTI, or the events that fill it would stay.
--
-- KEYS  the stream
-- ARGV  1 group · 2 … ids
-- Result  entries deleted
-- Safe to repeat. A crash before: the entries are read again, and their batches known as written.

local gone = 0
for i = 2, #ARGV, 1000 do
  local last = math.min(i + 999, #ARGV)
  redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, i, last))
  gone = gone + redis.call('XDEL', KEYS[1], unpack(ARGV, i, last))
end
return gone
