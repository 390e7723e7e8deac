#!lua flags=allow-oom,no-writes
-- Count the jobs of one page of a stream by blast and status, for the doctor.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS counting
-- ARGV  1 stream · 2 id from which the page begins ("-" for the first) · 3 most entries per page
-- Result  {id from which the next page begins or "", blast, status ("unread" if this server cannot read the job),
--          number, …}
-- Only reads. A page ends early after about a megabyte, because Redis is blocked meanwhile.

local stream, following, most = ARGV[1], ARGV[2], tonumber(ARGV[3])
local PAGE_BYTES, STEP, SPARE = 1000000, 128, 1000
local entries, bytes, step, largest, last_id = {}, 0, 1, 1, nil
while following ~= '' and #entries < most and bytes < PAGE_BYTES do
  local wanted = math.min(step, most - #entries)
  local rows = redis.call('XRANGE', stream, following, '+', 'COUNT', wanted)
  for i = 1, #rows do
    entries[#entries + 1] = rows[i]
    bytes, largest = bytes + #rows[i][2][2], math.max(largest, #rows[i][2][2])
  end
  if #rows > 0 then last_id = rows[#rows][1] end
  following = #rows == wanted and '(' .. last_id or ''
  step = math.max(1, math.min(STEP, math.floor((PAGE_BYTES - bytes) / largest)))
end
if #entries == 0 then return { '' } end

local held = {}
local rows = redis.pcall('XPENDING', stream, GROUP, entries[1][1], last_id, #entries + SPARE)
for _, row in ipairs(rows.err and {} or rows) do held[row[1]] = row end

local scheduled, sums = never_served(stream), {}
for _, entry in ipairs(entries) do
  local blast, status = status_of(entry[2][2], held[entry[1]], scheduled)
  if not blast then
    _, blast = read_id(entry[2][2])
    status = 'unread'
  end
  if blast then
    sums[blast] = sums[blast] or {}
    sums[blast][status] = (sums[blast][status] or 0) + 1
  end
end

local out = { following }
for blast, by_status in pairs(sums) do
  for status, n in pairs(by_status) do
    out[#out + 1], out[#out + 2], out[#out + 3] = blast, status, n
  end
end
return out
