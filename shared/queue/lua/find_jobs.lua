#!lua flags=allow-oom,no-writes
-- Find the jobs of a blast, or one job, in a stretch of a stream, among however many of others: a job is known by the
-- bytes that it begins with, and what is not wanted need not leave the server.
--
-- KEYS  1 the partition's bell · 2 a key that never exists
-- ARGV  1 stream · 2 id from which to look, "(" before one that was looked at · 3 id of the last to look at ·
--       4 entries to look at · 5 the packed blast id, with the packed index behind it where one job is wanted
-- Result  {from where to look on, 1 where the stretch is at its end, id, packed job, …}
-- Reads only, at most so many entries, and fewer where they are large: a call keeps the server for about a millisecond.

local MOST_A_PAGE, MOST_BYTES = 128, 1000000
local stream, following, to, most, wanted = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local result, read, bytes, page, largest = { following, 0 }, 0, 0, 1, 1

while read < most and bytes < MOST_BYTES do
  local entries = redis.call('XRANGE', stream, following, to, 'COUNT', page)
  for _, entry in ipairs(entries) do
    local raw = entry[2][2]
    bytes, largest = bytes + #raw, math.max(largest, #raw)
    -- the first byte says of how many fields the job is
    if string.sub(raw, 2, 1 + #wanted) == wanted then
      result[#result + 1] = entry[1]
      result[#result + 1] = raw
    end
  end
  read = read + #entries
  if #entries > 0 then following = '(' .. entries[#entries][1] end
  result[1] = following
  if #entries < page then
    result[2] = 1
    break
  end
  page = math.max(1, math.min(page * 4, MOST_A_PAGE, math.floor((MOST_BYTES - bytes) / largest)))
end
return result
