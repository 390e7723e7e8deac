#!lua flags=allow-oom
-- End a sender that holds nothing any more: its heartbeat and its consumers go.
--
-- KEYS  the channel's hash tag
-- ARGV  1 sender
-- Result  the number of entries it still holds; where above 0 nothing was removed from that stream
-- A consumer is deleted only where nothing is pending at it: deleting one with pending entries loses them.
-- A crash before: the reaper does the same later. After: nothing is left to do.

local left = 0

local function leave(stream)
  for _, suffix in ipairs({ ':buf', ':tx' }) do
    local name = ARGV[1] .. suffix
    local rows = redis.pcall('XPENDING', stream, GROUP, '-', '+', 1, name)
    if not rows.err then
      if #rows == 0 then redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, name) else left = left + 1 end
    end
  end
end

leave(C .. ':jobs:high')
leave(C .. ':jobs:normal')
leave(C .. ':jobs:due')
for _, blast in ipairs(redis.call('SMEMBERS', C .. ':streams')) do leave(C .. ':jobs:bulk:' .. blast) end
if left == 0 then
  redis.call('DEL', C .. ':sender:' .. ARGV[1], C .. ':once:' .. ARGV[1])
  redis.call('HDEL', C .. ':senders', ARGV[1])
end
return left
