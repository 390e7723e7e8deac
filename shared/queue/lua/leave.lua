#!lua flags=allow-oom
-- End a sender that holds nothing any more: its heartbeat and its consumers go.
--
-- KEYS  1 the partition's bell · 2 a key that never exists
-- ARGV  1 sender · 2 cursor ("0" at first) · 3 streams a page · 4 streams that earlier pages found it to hold
-- Result  {cursor of the next page ("0": no more), streams at which it holds something, earlier pages included}; with
--         the last page, where that is 0, its heartbeat goes
-- A consumer is deleted only where nothing is pending at it: deleting one with pending entries loses them.
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
