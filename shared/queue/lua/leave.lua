#!lua flags=allow-oom
-- Remove the heartbeat and the consumers of a sender that holds nothing.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 sender · 2 cursor ("0" at first) · 3 streams per page · 4 streams of earlier pages in which it holds something
-- Result  {cursor of the next page ("0": the last), streams in which it holds something, earlier pages included}; if that
--         is 0, the last page removes its heartbeat
-- A consumer is deleted only if it has no pending entries: deleting a consumer loses its entries.
-- A crash before: the reaper does the same later. After: nothing is left to do.

local sender, left = ARGV[1], tonumber(ARGV[4])
local streams, following = held_streams(sender, ARGV[2], ARGV[3])
for _, stream in ipairs(streams) do
  if not forget_held(sender, stream) then left = left + 1 end
end
if following == '0' and left == 0 then
  redis.call('DEL', C .. ':sender:' .. sender, C .. ':once:' .. sender, held_key(sender))
  redis.call('HDEL', C .. ':senders', sender)
end
return { following, left }
