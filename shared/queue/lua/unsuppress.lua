#!lua flags=allow-oom
-- Lift suppressions.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS suppressions
-- ARGV  fours: address as stored · scope, "" for every one · source, "" for every one · created before this ms, 0 for any
-- Result  how many were lifted; expired ones are deleted too and do not count
-- Safe to repeat.

make_wake_stream()
local now_ms, lifted = math.floor(now_us() / 1000), 0
for i = 1, #ARGV, 4 do
  local scope, source, before_ms = ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  lifted = lifted + lift_suppressions(ARGV[i], now_ms, function(one)
    return (scope == '' or scope == one[1]) and (source == '' or source == one[2]) and (before_ms == 0 or one[4] <= before_ms)
  end)
end
return lifted
