#!lua flags=allow-oom
-- Apply the outcomes of jobs that this sender holds.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS files, limits
-- ARGV  1 sender · 2 sequence, or for a call in its place 0 if it is gone and -1 if it is frozen · 3 head of the event batch · 4 V in ms · 5 ms to keep an ended blast ·
--       6 … runs of jobs that share eight fields: kind, stream, blast, run of the jobs, value, packed job or "", the delivery
--       count that the sender knows, the number of jobs; then three per job: id, job id, the packed event or ""
-- Kinds and their value:
--   sent       the provider accepted it; from :buf if a failover lost the begin ·
--              "<q|r as the job waited when this entry was written>"
--   ended      from :tx or :buf · "<status> <q|r as it waited> <1 to count it as uncertain>"
--   drop       from :buf, already counted as sent · —
--   park       from :tx, a further attempt · "<delay in ms> <attempts counted by the entry>"
--   later      from :tx, deferred · "<delay in ms> <lane> <deferred|retried>"
--   uncertain  from :tx, like park, and recorded as a lost answer · like park
--   await      from :buf, beyond its limit: to the limit's list · the limit as `begin` received it
--   back       from :tx or :buf, given back untried · "<attempts counted by the entry> <q|r as it will wait>"
--   shelve     from :buf, its blast is paused: to the blast's own stream, outside the ring · —
-- Result  one character per job: "1" done, "0" not held by this sender (the lease was lost)
-- An entry with another delivery count went to another sender and came back, so the lease is of an earlier delivery. With
-- such a lease only `sent` from :tx and `back` from :buf are applied.
-- A crash before: the jobs stay in :tx or :buf. After a lost reply: the same answer again.

local sender, sequence = ARGV[1], ARGV[2]
-- A sender that has its lease again may be sending.
local spared = sequence == '-1' and redis.call('EXISTS', C .. ':sender:' .. sender) == 1
local kept = replayed(sender, 'settle', sequence)
if kept then return kept end

local now = now_us()
local now_ms = math.floor(now / 1000)
local park_ms, keep_ms = tonumber(ARGV[4]), tonumber(ARGV[5])
local buf, tx = sender .. ':buf', sender .. ':tx'
local events, gone, done = {}, {}, {}
local wake, completed = false, {}
local any_stall = redis.call('EXISTS', C .. ':stalls') == 1
local any_cancel = redis.call('EXISTS', C .. ':cancels') == 1

local SHARED, OWN = 8, 3
local runs, asked, in_tx, in_buf, n = {}, {}, {}, {}, 0

-- Read what the jobs of the run at a place share, and list their entries; return the place of the next run.
local function read_run(at)
  local stream, jobs = ARGV[at + 1], tonumber(ARGV[at + 7])
  local first, ids = at + SHARED, asked[stream] or {}
  for base = first, first + (jobs - 1) * OWN, OWN do ids[#ids + 1] = ARGV[base] end
  asked[stream], n = ids, n + jobs
  runs[#runs + 1] = {
    kind = ARGV[at], stream = stream, blast = ARGV[at + 2], run = tonumber(ARGV[at + 3]), value = ARGV[at + 4],
    packed = ARGV[at + 5], deliveries = tonumber(ARGV[at + 6]), first = first, last = first + (jobs - 1) * OWN,
  }
  return first + jobs * OWN
end

local next_run = 6
while ARGV[next_run] do next_run = read_run(next_run) end
if spared then return string.rep('0', n) end

local function where(stream, id)
  in_tx[stream] = in_tx[stream] or owned(stream, tx, asked[stream])
  if in_tx[stream][id] then return 'tx' end
  in_buf[stream] = in_buf[stream] or owned(stream, buf, asked[stream])
  if in_buf[stream][id] then return 'buf' end
  return nil
end

local function forget(stream, id)
  gone[stream] = gone[stream] or {}
  table.insert(gone[stream], id)
end

local function note_end(job, status)
  local job_id, run = job.job_id, job.run
  if any_cancel then redis.call('HDEL', C .. ':cancels', job_id) end
  if has_files(job.blast) then
    if status == 'failed' then bury_files(job_id, run) else free_files(job_id, run) end
  end
  local stall = any_stall and stall_of(job_id)
  if stall then
    stall.outcome, stall.run = status, run
    keep_stall(job_id, stall, now_ms)
  end
  forget_place(job_id)
end

local function leave_waiting_or_flight(blast, from, waited)
  if from == 'tx' then
    count(blast, 'processing', -1)
  elseif waited == 'r' then
    count(blast, 'retrying', -1)
  end
end

local moves = {}

-- Return whether a late answer counted this run as sent, while a copy of the job waits or is in flight in another entry.
local function counted_as_sent(job)
  if not any_stall then return false end
  local stall = stall_of(job.job_id)
  return stall and stall.run == job.run and stall.outcome == 'sent'
end

-- A job that was begun before a failover may be in :buf again. A new master may also have assigned its entry's id again: then
-- another job is there.
local function is_its_entry(job)
  local entry = redis.call('XRANGE', job.stream, job.id, job.id)[1]
  return entry and read_id(entry[2][2]) == job.job_id
end

function moves.sent(job)
  if job.from == 'buf' and not is_its_entry(job) then return false end
  forget(job.stream, job.id)
  if job.from == 'buf' then
    if counted_as_sent(job) then
      forget_place(job.job_id)
      free_files(job.job_id, job.run)
      return true
    end
    -- an attempt of this entry makes it a retry, however it waited when it was written
    if in_buf[job.stream][job.id] > 1 then job.value = 'r' end
  end
  leave_waiting_or_flight(job.blast, job.from, job.value)
  count(job.blast, 'sent', 1)
  count_channel('sent', 1)
  note_end(job, 'sent')
  completed[#completed + 1] = job.job_id
  return true
end

function moves.ended(job)
  local status, waited, uncertain = string.match(job.value, '^(%S+) (%S) (%d)$')
  forget(job.stream, job.id)
  leave_waiting_or_flight(job.blast, job.from, waited)
  count(job.blast, status, 1)
  count_channel(status, 1)
  if uncertain == '1' and not stall_of(job.job_id) then
    keep_stall(job.job_id, { stalls = 0, uncertain = 1, run = job.run, outcome = status }, now_ms)
    any_stall = true
  end
  note_end(job, status)
  if status == 'failed' then redis.call('XADD', C .. ':failed', 'MAXLEN', '50', '*', 'd', job.event) end
  return true
end

function moves.drop(job)
  forget(job.stream, job.id)
  note_move(job.blast)
  forget_place(job.job_id)
  free_files(job.job_id, job.run)
  return true
end

function moves.park(job)
  if job.from ~= 'tx' then return false end
  local delay, attempts = string.match(job.value, '^(%d+) (%d+)$')
  park(job.stream, job.id, tonumber(delay), attempts, park_ms, now)
  wake = true
  count(job.blast, 'processing', -1)
  count(job.blast, 'retrying', 1)
  count_channel('retried', 1)
  return true
end

function moves.uncertain(job)
  if not moves.park(job) then return false end
  local stall = stall_of(job.job_id)
  if not stall or stall.run ~= job.run then stall = { stalls = 0, uncertain = 0, run = job.run, outcome = '-' } end
  stall.uncertain = stall.uncertain + 1
  keep_stall(job.job_id, stall, now_ms)
  any_stall = true
  return true
end

local function to_later(job, due_us, mark)
  forget(job.stream, job.id)
  forget_place(job.job_id)
  redis.call('ZADD', C .. ':later', int(due_us), job.job_id)
  redis.call('HSET', C .. ':later:jobs', job.job_id, mark .. job.packed)
  wake = true
end

function moves.later(job)
  if job.from ~= 'tx' then return false end
  local delay, lane, what = string.match(job.value, '^(%d+) (%S+) (%S+)$')
  to_later(job, now + tonumber(delay) * 1000, 'd' .. string.sub(lane, 1, 1))
  count(job.blast, 'processing', -1)
  count(job.blast, 'retrying', 1)
  count_channel(what, 1)
  return true
end

-- A job that its limit's list released and that could not start returns to its old place.
function moves.await(job)
  if job.from ~= 'buf' then return false end
  local name, gap, burst, lane = string.match(job.value, '^(%S+) (%d+) (%d+) %d+ %d+ (%a)$')
  local entry = is_released(job.stream) and redis.call('XRANGE', job.stream, job.id, job.id)[1]
  forget(job.stream, job.id)
  forget_place(job.job_id)
  wait_for_limit(name, lane, job.job_id, job.packed, entry and entry[2][4])
  count_limited(job.job_id, 1)
  set_limit_pace(name, gap .. ' ' .. burst, now)
  index_limit(name, now)
  wake = true
  return true
end

function moves.back(job)
  local attempts, waits = string.match(job.value, '^(%d+) (%S)$')
  -- an entry that went to another sender and came back has had more attempts than this sender knows
  if job.from == 'buf' then attempts = math.max(in_buf[job.stream][job.id] - 1, 0) end
  give_back(job.stream, job.id, attempts)
  serve(job.stream)
  if job.from == 'tx' then
    count(job.blast, 'processing', -1)
    if waits == 'r' then count(job.blast, 'retrying', 1) end
  else
    job.event = ''
  end
  wake = true
  return true
end

function moves.shelve(job)
  if job.from ~= 'buf' then return false end
  local stream = C .. ':jobs:bulk:' .. job.blast
  if redis.call('SADD', C .. ':streams', job.blast) == 1 then make_group(stream) end
  if job.stream == stream then
    give_back(stream, job.id, string.match(job.value, '^%d+'))
  else
    forget(job.stream, job.id)
    forget_place(job.job_id)
    note_move(job.blast)
    local id = redis.call('XADD', stream, '*', 'd', job.packed)
    -- not for every job: a sweep of the blast would read each of them
    if any_stall and stall_of(job.job_id) then note_place(job.job_id, stream, id) end
  end
  redis.call('ZREM', C .. ':ring', stream)
  serve(stream)
  wake = true
  return true
end

local function is_stale(job, kind)
  local deliveries = job.from == 'tx' and in_tx[job.stream][job.id] or in_buf[job.stream][job.id]
  if kind == 'sent' and job.from == 'tx' or kind == 'back' and job.from == 'buf' then return false end
  return deliveries ~= job.deliveries
end

local function sent_before(job)
  if job.from ~= 'tx' or not counted_as_sent(job) then return false end
  forget(job.stream, job.id)
  forget_place(job.job_id)
  free_files(job.job_id, job.run)
  count(job.blast, 'processing', -1)
  count(job.blast, 'retrying', 1)
  return true
end

-- Most jobs were simply sent, and nothing else is recorded of them: their ends are counted together.
local nothing_recorded = not any_cancel and redis.call('EXISTS', C .. ':places') == 0

local function end_plainly(stream, base)
  local id, event = ARGV[base], ARGV[base + 2]
  forget(stream, id)
  in_tx[stream][id] = nil
  completed[#completed + 1], events[#events + 1] = ARGV[base + 1], event
end

local function apply(r, base, from)
  local id = ARGV[base]
  local job = {
    stream = r.stream, id = id, job_id = ARGV[base + 1], run = r.run, event = ARGV[base + 2], value = r.value,
    packed = r.packed, deliveries = r.deliveries, blast = r.blast, from = from,
  }
  local moved = from and not is_stale(job, r.kind) and (sent_before(job) or moves[r.kind](job))
  if not moved then return '0' end
  in_tx[r.stream][id], (in_buf[r.stream] or {})[id] = nil, nil
  if job.event ~= '' then events[#events + 1] = job.event end
  return '1'
end

for _, r in ipairs(runs) do
  local plain, ended = r.kind == 'sent' and nothing_recorded and not any_stall and not has_files(r.blast), 0
  for base = r.first, r.last, OWN do
    local from = where(r.stream, ARGV[base])
    if plain and from == 'tx' then
      end_plainly(r.stream, base)
      done[#done + 1], ended = '1', ended + 1
    else
      done[#done + 1] = apply(r, base, from)
    end
  end
  if ended > 0 then
    count(r.blast, 'processing', -ended)
    count(r.blast, 'sent', ended)
    count_channel('sent', ended)
  end
end

for stream, ids in pairs(gone) do
  redis.call('XACK', stream, GROUP, unpack(ids))
  redis.call('XDEL', stream, unpack(ids))
  drop_if_empty(stream)
end
if #completed > 0 then
  local first = math.max(1, #completed - 99)
  redis.call('XADD', C .. ':completed', 'MAXLEN', '100', '*', 'd', table.concat(completed, ' ', first))
end
write_counts(now_ms, keep_ms, events)
emit(ARGV[3], events)
if wake then wake_senders() end
return remember(sender, 'settle', sequence, table.concat(done))
