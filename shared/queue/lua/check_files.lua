#!lua flags=allow-oom
-- Check one page of the records of a blast's files; repair what is wrong.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS files
-- ARGV  1 blast · 2 "1" to repair, "0" to check only · 3 cursor ("0" at first) · 4 entries per page
-- Result  {cursor of the next page ("0": the last), jobs recorded although they ended long ago, files that jobs need and
--          that are gone, files that jobs need and that would expire, index and run of each job that has not ended, …}
-- Repair: the files of jobs that have ended are freed, and files that would expire are kept. Files that are gone cannot be
-- restored.
-- Safe to repeat.

local blast, repair, most = ARGV[1], ARGV[2] == '1', ARGV[4]
local key = files_key(blast)
if ended_long_ago(blast, math.floor(now_us() / 1000)) then
  local following, lost = free_lost(blast, ARGV[3], most, repair)
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
      if repair then redis.call('PERSIST', file_key(blast, string.sub(field, 2))) end
    end
  elseif string.find(field, '^%d+$') then
    out[#out + 1], out[#out + 2] = field, string.match(value, '^%d+')
  end
end
out[3], out[4] = gone, expiring
return out
