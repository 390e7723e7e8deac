#!lua flags=allow-oom
-- Lift suppressions.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS suppressions
-- ARGV  pairs: address as stored · scope, "" for every scope
-- Result  how many were lifted; expired ones are deleted too and do not count
-- Safe to repeat.

make_wake_stream()
local now_ms, lifted = math.floor(now_us() / 1000), 0
for i = 1, #ARGV, 2 do
  local scope = ARGV[i + 1]
  lifted = lifted + lift_suppressions(ARGV[i], now_ms, function(one) return scope == '' or scope == one[1] end)
end
return lifted
