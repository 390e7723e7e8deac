#!lua flags=allow-oom
-- End one page of the waiting jobs of a blast's own stream: a million must end within seconds.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS files, ranges
-- ARGV  1 head of the event batch · 2 ms to keep an ended blast · 3 status · 4 blast id · 5 id from which the
--       page begins · 6 most entries per page · 7 the packed fields of an `Ended` from its status to its job ·
--       8 the packed fields of a `SweptRanges` from its status to its message
-- Result  {id from which the next page begins or "", jobs ended, jobs in flight and not touched}
-- A page ends early after about a megabyte, because Redis is blocked meanwhile. Jobs that this server cannot read are left
-- to the senders, which end them when they reach them. Blasts with files have smaller pages, because each job is read.
-- Safe to repeat: jobs that are gone are skipped.

local now_ms, status, blast = math.floor(now_us() / 1000), ARGV[3], ARGV[4]
local stream, most, ending = C .. ':jobs:bulk:' .. blast, tonumber(ARGV[6]), ARGV[7]
if has_files(blast) then most = math.min(most, 25) end
local PAGE_BYTES, STEP = 1048576, 20

-- XRANGE can only be bounded by a number, so a page is read in steps, small ones if the entries are large.
local entries, last_id, following = {}, nil, ARGV[5]
local function read_page()
  local bytes, step = 0, 1
  while following ~= '' and #entries < most and bytes < PAGE_BYTES do
    local wanted, largest = math.min(step, most - #entries), 1
    local rows = redis.call('XRANGE', stream, following, '+', 'COUNT', wanted)
    for i = 1, #rows do
      local size = #rows[i][2][2]
      entries[#entries + 1] = rows[i]
      bytes, largest = bytes + size, math.max(largest, size)
    end
    if #rows > 0 then last_id = rows[#rows][1] end
    following = #rows == wanted and '(' .. last_id or ''
    step = math.max(1, math.min(STEP, math.floor((PAGE_BYTES - bytes) / largest)))
  end
end

read_page()
if #entries == 0 then return { '', 0, 0 } end
local held = {}
local rows = redis.pcall('XPENDING', stream, GROUP, entries[1][1], last_id, most)
if not rows.err then
  for _, row in ipairs(rows) do held[row[1]] = row end
end
local any_cancel = redis.call('EXISTS', C .. ':cancels') == 1
local any_stall = redis.call('EXISTS', C .. ':stalls') == 1
local events, acks, dels, flying = {}, {}, {}, 0

-- Nearly all jobs of a page wait as they were enqueued, in the order of their indexes. These go into one `SweptRanges`,
-- which has the first and last index of each range. A run of 256 and more has three bytes: such jobs are read.
local START = '\157' .. cmsgpack.pack(blast)
local PLACE = #START + 1
local by_ends = not has_files(blast) and not has_records(blast)
local ranges = make_ranges(blast, status, ARGV[8], now_ms, events)

-- Return the index and the run of a job that can go unread, by its first and last bytes.
local function ends_of(raw)
  if not by_ends or not is_untried(raw) or string.sub(raw, 1, #START) ~= START then return nil end
  local run, a, b, c, d, e = string.byte(raw, -6), string.byte(raw, PLACE, PLACE + 4)
  if run > 127 or string.byte(raw, -8) == 0xcd then return nil end
  if a < 0x80 then return a, run end
  if a == 0xcc then return b, run end
  if a == 0xcd then return b * 256 + c, run end
  if a == 0xce then return ((b * 256 + c) * 256 + d) * 256 + e, run end
  return nil
end

-- An `Ended` event up to its recipient's name: an array of 13.
local function ended(job_id, job, made)
  local recipient = job[5]
  events[#events + 1] = '\157' .. cmsgpack.pack('ended', now_ms, job_id, job[8], job[9] + made) .. ending .. cmsgpack.pack(recipient[1], recipient[2])
end

local function end_read(id, row, job)
  local job_id, made = job[1] .. ':' .. int(job[2]) .. ':' .. job[3], 0
  if row then
    acks[#acks + 1] = id
    made = string.sub(row[2], 1, 1) == '~' and row[4] or math.max(row[4] - 1, 0)
    if row[2] == '~retry' then unpark(stream, id) end
  end
  if job[9] + made > 0 or job[10] > 0 then
    count(blast, 'retrying', -1)
  elseif not row then
    ranges.leave_scheduled(1)
  end
  count(blast, status, 1)
  count_channel(status, 1)
  if any_cancel then redis.call('HDEL', C .. ':cancels', job_id) end
  if any_stall then end_stall(job_id, status, now_ms) end
  forget_place(job_id)
  free_files(job_id)
  dels[#dels + 1] = id
  ended(job_id, job, made)
end

for _, entry in ipairs(entries) do
  local id, raw = entry[1], entry[2][2]
  local row = held[id]
  if row and string.sub(row[2], -3) == ':tx' then
    flying = flying + 1
  else
    local index, run
    if not row then index, run = ends_of(raw) end
    if index then
      ranges.add(index, index, run)
      dels[#dels + 1] = id
    else
      local job = read_job(raw)
      if job then end_read(id, row, job) end
    end
  end
end

ranges.finish()
if #acks > 0 then redis.call('XACK', stream, GROUP, unpack(acks)) end
if #dels > 0 then redis.call('XDEL', stream, unpack(dels)) end
drop_if_empty(stream)
write_counts(now_ms, tonumber(ARGV[2]), events)
emit(ARGV[1], events)
return { following, #dels, flying }
