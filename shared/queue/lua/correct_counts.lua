#!lua flags=allow-oom
-- Compare the counts of blasts with jobs that were counted over several calls; correct them.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS counting
-- ARGV  1 "1" to correct, "0" to check only · 2 head of the event batch · 3 ms to keep an ended blast · 4 fields of a
--       blast's hash, separated by blanks ·
--       5 … seven per blast: id, the values of these fields before the jobs were counted, each followed by a comma, jobs
--       found, and how many of them are processing, retrying, scheduled, and wait for limits
-- Result  one text per blast: "moved" if a value has changed since, so that what was found is out of date · "" the counts
--         agree · "<jobs missing> <jobs too many>"
-- Each script that moves a job changes one of these values.
-- Safe to repeat.

local repair, keep_ms, now_ms = ARGV[1] == '1', tonumber(ARGV[3]), math.floor(now_us() / 1000)
local fields, events, out = {}, {}, {}
for field in string.gmatch(ARGV[4], '%S+') do fields[#fields + 1] = field end

local function state_of(blast)
  local values = redis.call('HMGET', C .. ':blast:' .. blast, unpack(fields))
  for i = 1, #fields do values[i] = values[i] or '' end
  return table.concat(values, ',') .. ','
end

for i = 5, #ARGV, 7 do
  local blast, found = ARGV[i], { all = tonumber(ARGV[i + 2]) }
  for j, status in ipairs(OPEN) do found[status] = tonumber(ARGV[i + 2 + j]) end
  if state_of(blast) ~= ARGV[i + 1] then
    out[#out + 1] = 'moved'
  else
    local missing, many = check_counts(blast, found, repair, now_ms, keep_ms, events)
    out[#out + 1] = missing and (int(missing) .. ' ' .. int(many)) or ''
  end
end
emit(ARGV[2], events)
return out
