#!lua flags=allow-oom
-- Suppress addresses. A full Redis must not keep a sender from noting a hard bounce.
--
-- KEYS  1 the partition's bell · 2 a key that never exists
-- PARTS suppressions
-- ARGV  pairs: identity of the address · packed suppression
-- Result  one word a pair, joined by commas: "new", "changed" (suppressed otherwise before) or "kept" (as it was)
-- Safe to repeat: of two suppressions of one scope the one that lasts longer stays, of equals the first.

make_wake_stream()
local now_ms, words = math.floor(now_us() / 1000), {}
for i = 1, #ARGV, 2 do words[#words + 1] = store_suppression(ARGV[i], cmsgpack.unpack(ARGV[i + 1]), now_ms) end
return table.concat(words, ',')
