#!lua flags=allow-oom
-- Suppress addresses, also when Redis is full: senders record hard bounces.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS suppressions
-- ARGV  pairs: identity of the address · packed suppression
-- Result  one word per pair, joined by commas: "new", "changed" (suppressed differently before) or "kept" (unchanged)
-- Safe to repeat: of two suppressions of one scope the longer one stays, of equals the first, unless that is an opt-out.

make_wake_stream()
local now_ms, words = math.floor(now_us() / 1000), {}
for i = 1, #ARGV, 2 do words[#words + 1] = store_suppression(ARGV[i], cmsgpack.unpack(ARGV[i + 1]), now_ms) end
return table.concat(words, ',')
