#!lua flags=allow-oom
-- Take over events that another logger read and did not acknowledge for a while: it is gone, or cut off.
-- It also runs when Redis is full; otherwise the events that fill it could never be read.
--
-- KEYS  the stream
-- ARGV  1 group · 2 consumer · 3 idle time in ms · 4 most entries
-- Result  entries taken over, which the consumer reads as its own pending ones
-- Safe to repeat. Events that the other logger still writes are written once: their batches are recorded as applied.

local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], '-', '+', ARGV[4])
if pending.err then return 0 end
local taken = 0
for _, row in ipairs(pending) do
  if row[2] ~= ARGV[2] then
    taken = taken + #redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], row[1], 'JUSTID')
  end
end
return taken
