#!lua flags=allow-oom
-- Acknowledge and delete events whose effect is in the database. It also runs when Redis is full, which would refuse the
-- same commands in a MULTI: otherwise the events that fill Redis would stay.
--
-- KEYS  the stream
-- ARGV  1 group · 2 … ids
-- Result  entries deleted
-- Safe to repeat. A crash before: the entries are read again, and the logger knows that it has written their batches.

local gone = 0
for i = 2, #ARGV, 1000 do
  local last = math.min(i + 999, #ARGV)
  redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, i, last))
  gone = gone + redis.call('XDEL', KEYS[1], unpack(ARGV, i, last))
end
return gone
