#!lua flags=allow-oom
-- List what a sender holds, for one that lost a reply or finds entries without a task.
--
-- KEYS  1 the partition's bell · 2 a key that never exists
-- ARGV  1 sender · 2 "buf" or "tx" · 3 most entries a stream · 4 cursor ("0" at first) · 5 streams a page
-- Result  {cursor of the next page ("0": no more), stream, id, delivery count, …}: names alone, however large the jobs
-- A stream at which it holds nothing any more is forgotten.

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
