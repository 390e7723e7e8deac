#!lua flags=allow-oom
-- End waiting jobs in any place: cancelled ones, and entries that are not jobs.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS files, limits
-- ARGV  1 head of the event batch · 2 ms to keep an ended blast · 3 status ·
--       4 … five per job: stream ("" if it is due later), id, job id ("" if unknown),
--       "r" if it waits for a further attempt by its own numbers, else "q", the packed event ("" for none)
-- Result  one character per job: "1" ended, "t" in flight and not touched, "0" gone
-- Safe to repeat: jobs that are gone are skipped.

local FROM, FIELDS = 4, 5
local now_ms, status = math.floor(now_us() / 1000), ARGV[3]
local n = (#ARGV - FROM + 1) / FIELDS
local any_cancel = redis.call('EXISTS', C .. ':cancels') == 1
local any_stall = redis.call('EXISTS', C .. ':stalls') == 1
local events, done, acks, dels = {}, {}, {}, {}

local function end_job(job_id, waited, event)
  if job_id ~= '' then
    local blast = string.match(job_id, '^[^:]+')
    if waited == 'r' then count(blast, 'retrying', -1) elseif waited == 's' then count(blast, 'scheduled', -1) end
    count(blast, status, 1)
    if any_cancel then redis.call('HDEL', C .. ':cancels', job_id) end
    if any_stall then end_stall(job_id, status, now_ms) end
    forget_place(job_id)
    if status == 'failed' then bury_files(job_id) else free_files(job_id) end
  end
  count_channel(status, 1)
  if event ~= '' then events[#events + 1] = event end
  return '1'
end

local function sweep_later(job_id, waited, event)
  local kind = take_later(job_id, now_us())
  if not kind then return '0' end
  if kind == 's' then
    waited = 's'
    gauge('later_scheduled', -1)
  end
  return end_job(job_id, waited, event)
end

-- A scheduled blast with its own stream is scheduled as a whole until its first turn.
local scheduled = {}
local function leave_scheduled(blast)
  if not scheduled[blast] then
    local v = redis.call('HMGET', C .. ':blast:' .. blast, 'scheduled', 'scheduled_whole')
    scheduled[blast] = v[2] and tonumber(v[1] or 0) or 0
  end
  scheduled[blast] = scheduled[blast] - 1
  return scheduled[blast] >= 0
end

-- The holders of a chunk's entries: chunks are in stream order, so one read per stream is enough.
local read = {}
local function read_holders(stream, i)
  local last = i
  while last < n and ARGV[FROM + last * FIELDS] == stream do last = last + 1 end
  local holders, most = {}, last - i + 1 + 64
  local first_id, last_id = ARGV[FROM + (i - 1) * FIELDS + 1], ARGV[FROM + (last - 1) * FIELDS + 1]
  local rows = redis.pcall('XPENDING', stream, GROUP, first_id, last_id, most)
  if not rows.err then
    for _, row in ipairs(rows) do holders[row[1]] = { row[2], row[4] } end
  end
  read[stream] = { holders, not rows.err and #rows == most }
end

local function held_by(stream, id, i)
  if not read[stream] then read_holders(stream, i) end
  local held = read[stream][1][id]
  if held then return held[1], held[2] end
  if read[stream][2] then return holder(stream, id) end
  return nil
end

local function sweep_stream(stream, id, job_id, waited, event, i)
  local consumer, attempts = held_by(stream, id, i)
  if consumer then
    if string.sub(consumer, -3) == ':tx' then return 't' end
    local made = string.sub(consumer, 1, 1) == '~' and attempts or attempts - 1
    if made > 0 then waited = 'r' end
    if consumer == '~retry' then unpark(stream, id) end
    acks[stream] = acks[stream] or {}
    table.insert(acks[stream], id)
  end
  if redis.call('XDEL', stream, id) == 0 then return '0' end
  if not consumer and waited == 'q' then
    local blast = bulk_blast(stream)
    if blast and leave_scheduled(blast) then waited = 's' end
  end
  dels[stream] = true
  return end_job(job_id, waited, event)
end

for i = 1, n do
  local base = FROM + (i - 1) * FIELDS
  local stream, id, job_id, waited, event = ARGV[base], ARGV[base + 1], ARGV[base + 2], ARGV[base + 3], ARGV[base + 4]
  if stream == '' then
    done[i] = sweep_later(job_id, waited, event)
  else
    done[i] = sweep_stream(stream, id, job_id, waited, event, i)
  end
end
for stream, ids in pairs(acks) do redis.call('XACK', stream, GROUP, unpack(ids)) end
for stream in pairs(dels) do drop_if_empty(stream) end
write_counts(now_ms, tonumber(ARGV[2]), events)
emit(ARGV[1], events)
return table.concat(done)
