#!lua flags=allow-oom
-- List the entries that a sender holds, for a sender that lost a reply or has entries without a task.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 sender · 2 "buf" or "tx" · 3 most entries per stream · 4 cursor ("0" at first) · 5 streams per page
-- Result  {cursor of the next page ("0": the last), stream, id, delivery count, …}, without the jobs, which may be large
-- Streams in which the sender no longer holds anything are forgotten.

local streams, following = held_streams(ARGV[1], ARGV[4], ARGV[5])
local out = { following }
for _, stream in ipairs(streams) do
  local rows = redis.pcall('XPENDING', stream, GROUP, '-', '+', ARGV[3], ARGV[1] .. ':' .. ARGV[2])
  for _, row in ipairs(rows.err and {} or rows) do
    local n = #out
    out[n + 1], out[n + 2], out[n + 3] = stream, row[1], row[4]
  end
  if bulk_blast(stream) and (rows.err or #rows == 0) then forget_held(ARGV[1], stream) end
end
return out
