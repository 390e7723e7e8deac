#!lua flags=allow-oom
-- Look over a page of what is noted of the files of a blast; mend what is wrong.
--
-- KEYS  1 the partition's bell · 2 a key that never exists
-- PARTS files
-- ARGV  1 blast · 2 "1" to mend, "0" to look only · 3 cursor ("0" at first) · 4 entries a page
-- Result  {cursor of the next page ("0": no more), jobs that ended long ago and were noted still, files that jobs need and
--          that are gone, files that jobs need and that would expire, index and run of each job that has not ended, …}
-- Mended: files of jobs that have ended go, and what would expire stays. What is gone cannot be brought back.
-- Safe to repeat.

local blast, mend, most = ARGV[1], ARGV[2] == '1', ARGV[4]
local key = files_key(blast)
if ended_long_ago(blast, math.floor(now_us() / 1000)) then
  local following, lost = free_lost(blast, ARGV[3], most, mend)
  return { following, lost, 0, 0 }
end

local page = redis.call('HSCAN', key, ARGV[3], 'COUNT', most)
local out, gone, expiring = { page[1], 0, 0, 0 }, 0, 0
for i = 1, #page[2], 2 do
  local field, value = page[2][i], page[2][i + 1]
  if string.sub(field, 1, 1) == '#' then
    local left = redis.call('PTTL', file_key(blast, string.sub(field, 2)))
    if left == -2 then
      gone = gone + 1
    elseif left >= 0 then
      expiring = expiring + 1
      if mend then redis.call('PERSIST', file_key(blast, string.sub(field, 2))) end
    end
  elseif string.find(field, '^%d+$') then
    out[#out + 1], out[#out + 2] = field, string.match(value, '^%d+')
  end
end
out[3], out[4] = gone, expiring
return out
