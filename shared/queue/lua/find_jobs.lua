#!lua flags=allow-oom,no-writes
-- Find the jobs of a blast, or one job, in a range of a stream with any number of other jobs. A job is recognised by its
-- first bytes, so other jobs do not leave the server.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 stream · 2 id to start from, with "(" to start after it · 3 id of the last entry to read ·
--       4 most entries to read · 5 the packed blast id, followed by the packed index to find one job
-- Result  {where to continue, 1 at the end of the range, id, packed job, …}
-- Only reads, and fewer entries if they are large: a call takes the server about a millisecond.

local MOST_A_PAGE, MOST_BYTES = 128, 1000000
local stream, following, to, most, wanted = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local result, read, bytes, page, largest = { following, 0 }, 0, 0, 1, 1

while read < most and bytes < MOST_BYTES do
  local entries = redis.call('XRANGE', stream, following, to, 'COUNT', page)
  for _, entry in ipairs(entries) do
    local raw = entry[2][2]
    bytes, largest = bytes + #raw, math.max(largest, #raw)
    -- the first byte is the number of the job's fields
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
