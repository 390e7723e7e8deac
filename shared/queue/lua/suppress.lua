#!lua flags=allow-oom
-- Suppress addresses, also when Redis is full: senders record hard bounces. What was new or changed becomes one event.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS suppressions
-- ARGV  1 head of the event batch, "" for no event (another partition of the channel emits it) · then pairs: identity of the
--       address · packed suppression
-- Result  one word per pair, joined by commas: "new", "changed" (suppressed differently before) or "kept" (unchanged)
-- Safe to repeat: of two suppressions of one scope the longer one stays, of equals the first, unless that is an opt-out. So a
-- repeated call changes nothing, and emits nothing.

make_wake_stream()
local now_ms, words, added = math.floor(now_us() / 1000), {}, {}
for i = 2, #ARGV, 2 do
  local address, one = ARGV[i], cmsgpack.unpack(ARGV[i + 1])
  local word = store_suppression(address, one, now_ms)
  words[#words + 1] = word
  if word ~= 'kept' then added[#added + 1] = { address, one[1], one[2], one[3], one[6] or '' } end
end
if #added > 0 and ARGV[1] ~= '' then
  emit(ARGV[1], { cmsgpack.pack({ 'suppressions_added', now_ms, channel_name(), added }) })
end
return table.concat(words, ',')
