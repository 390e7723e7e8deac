#!lua flags=allow-oom
-- Record that a provider accepted a message whose lease had been lost: within one run, `sent` outranks every other status.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS files, limits
-- ARGV  1 sender · 2 sequence · 3 head of the event batch · 4 ms to keep an ended blast ·
--       5 … six per job: stream, id, job id, run, "q" or "r" as the job waited when the entry was written, the packed
--       `sent` event, marked late
-- Result  one character per job: "1" its count moved to sent, "0" it was there already, or the job is unknown
-- The waiting copy is removed, even if it was moved to another entry. Without a stall on record (a failover lost the
-- fetch, or the move to the entry) the answer counts if it removes an entry: then nothing else has ended the job.
-- A crash before: the job stays as its reaper left it, and may be sent again (G2). After: the same answer again.

local sender, sequence = ARGV[1], ARGV[2]
local kept = replayed(sender, 'late', sequence)
if kept then return kept end

local now_ms = math.floor(now_us() / 1000)
local events, done = {}, {}

local function note_sent(job_id, stall)
  stall.outcome = 'sent'
  keep_stall(job_id, stall, now_ms)
end

local function remove(stream, id)
  if redis.call('XDEL', stream, id) == 0 then return nil end
  local consumer, deliveries = holder(stream, id)
  if consumer then redis.call('XACK', stream, GROUP, id) end
  unpark(stream, id)
  drop_if_empty(stream)
  return consumer or '', deliveries or 0
end

local function is_run(raw, job_id, run)
  if read_id(raw) ~= job_id then return false end
  local job = read_job(raw)
  return not job or job[8] == run
end

-- Return whether an entry is of this run: it may be gone, or hold another job because a new master assigned its id again.
local function holds_run(stream, id, job_id, run)
  local rows = redis.pcall('XRANGE', stream, id, id)
  return not rows.err and #rows > 0 and is_run(rows[1][2][2], job_id, run)
end

-- Remove a waiting copy that is counted as retrying, pending or new; return nil if it is not in the stream.
local function take_away(stream, id, job_id, run)
  if not holds_run(stream, id, job_id, run) then return nil end
  if string.sub(remove(stream, id), -3) == ':tx' then return 'processing' end
  return 'retrying'
end

local function from_where(stream, id, job_id, stall)
  if stall.outcome ~= '-' then return stall.outcome end
  redis.call('HDEL', C .. ':cancels', job_id)
  local was = take_away(stream, id, job_id, stall.run)
  local place = redis.call('HGET', C .. ':places', job_id)
  if not was and place then
    local at, entry = string.match(place, '^(%S+) (%S+)$')
    was = take_away(at, entry, job_id, stall.run)
  end
  forget_place(job_id)
  take_later(job_id, now_us())
  return was or 'retrying'
end

-- Remove the entry of a job without a stall on record; return the status that the job leaves, "queued" if no count has it,
-- nil if the entry is not of this run.
local function from_its_entry(stream, id, job_id, run, waited)
  if not holds_run(stream, id, job_id, run) then return nil end
  local blast = bulk_blast(stream)
  local whole = blast and redis.call('HEXISTS', C .. ':blast:' .. blast, 'scheduled_whole') == 1
  local consumer, deliveries = remove(stream, id)
  if string.sub(consumer, -3) == ':tx' then return 'processing' end
  local attempts = string.sub(consumer, 1, 1) == '~' and deliveries or deliveries - 1
  if waited == 'r' or attempts > 0 then return 'retrying' end
  return whole and 'scheduled' or 'queued'
end

-- The same for a job that is due later, because a failover lost its promotion.
local function from_later(job_id, run, waited)
  local later = redis.call('HGET', C .. ':later:jobs', job_id)
  if not later then return nil end
  local kind, _, raw = read_later(later)
  if not is_run(raw, job_id, run) then return nil end
  take_later(job_id, now_us())
  if kind == 's' then
    gauge('later_scheduled', -1)
    return 'scheduled'
  end
  local job = read_job(raw)
  return (kind == 'd' or waited == 'r' or (job and job[9] + job[10] > 0)) and 'retrying' or 'queued'
end

-- The same for a job that has come due, or was released, once more, because a failover lost the first time.
local function from_its_place(job_id, run, waited)
  local place = redis.call('HGET', C .. ':places', job_id)
  if not place then return nil end
  local stream, id = string.match(place, '^(%S+) (%S+)$')
  return from_its_entry(stream, id, job_id, run, waited)
end

local function count_without_stall(stream, id, job_id, run, waited)
  local was = from_its_entry(stream, id, job_id, run, waited) or from_later(job_id, run, waited)
    or from_its_place(job_id, run, waited)
  if not was then return '0' end
  forget_place(job_id)
  redis.call('HDEL', C .. ':cancels', job_id)
  free_files(job_id, run)
  local blast = string.match(job_id, '^[^:]+')
  if was ~= 'queued' then count(blast, was, -1) end
  count(blast, 'sent', 1)
  count_channel('sent', 1)
  return '1'
end

local function count_with_stall(stream, id, job_id, stall)
  local blast = string.match(job_id, '^[^:]+')
  local was = from_where(stream, id, job_id, stall)
  free_files(job_id, stall.run)
  count(blast, was, -1)
  count(blast, 'sent', 1)
  if stall.outcome ~= '-' then count_channel(was, -1) end
  count_channel('sent', 1)
  if stall.outcome ~= '-' then redis.call('HDEL', C .. ':blast:' .. blast, 'ended_at') end -- its end is reported again
  note_sent(job_id, stall)
  return '1'
end

-- A record that `enqueue` reset for this run: it has not been abandoned, so it may wait as queued.
local function is_reset(stall, run)
  return stall.run == run and stall.outcome == '-' and stall.stalls + stall.uncertain == 0
end

for i = 1, (#ARGV - 4) / 6 do
  local base = 4 + (i - 1) * 6
  local stream, id, job_id, run = ARGV[base + 1], ARGV[base + 2], ARGV[base + 3], tonumber(ARGV[base + 4])
  local stall = stall_of(job_id)
  done[i] = '0'
  if not stall or is_reset(stall, run) then
    done[i] = count_without_stall(stream, id, job_id, run, ARGV[base + 5])
    if stall and done[i] == '1' then note_sent(job_id, stall) end
  elseif stall.run == run and stall.outcome ~= 'sent' then
    done[i] = count_with_stall(stream, id, job_id, stall)
  end
  events[#events + 1] = ARGV[base + 6]
end

write_counts(now_ms, tonumber(ARGV[4]), events)
emit(ARGV[3], events)
return remember(sender, 'late', sequence, table.concat(done))
