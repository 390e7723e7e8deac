#!lua
-- Add a chunk of a blast's jobs on this channel, once.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS files
-- ARGV  1 blast id · 2 series ("jobs", or "run:…" for dead letters sent again) · 3 position of the first job ·
--       4 total of the blast in this partition · 5 lane · 6 scheduled time in µs, 0 for now · 7 head of the event
--       batch · 8 the packed `queued` event · 9 jobs from which a `bulk` blast has its own stream ·
--       10 ms to keep an ended blast · 11 "1" if every file must exist · 12 the files of its jobs, a line
--       for each job that has any: "<index> <run> <digest> …" · 13 run of its jobs · 14 "<partitions
--       in which the blast has jobs on this channel> <those on all its channels>" · 15 the reason of its pause, if it is
--       paused in another partition that it has not ended in; it may have ended in this one, and is then paused here too ·
--       16 the indexes of the jobs as ranges, "<first> <last> …", if a sweep may end them unread, else "" ·
--       17 … pairs: job id, packed job
-- Result  {added, watermark, cancelled 0|1}; the error GAP if jobs before the first are missing, FILES if a file is missing
-- Jobs are added to the stream of their lane. Jobs of a `bulk` blast go to the blast's own stream, those of a small one to
-- the due jobs (a stream costs about a thousand bytes, too much for a single message). Jobs of a paused blast go to the
-- blast's own stream, outside the ring. Jobs of a scheduled blast without its own stream are due later. Jobs added to a
-- scheduled blast's own stream after its time, but before its first turn, are scheduled like the others.
-- A dead letter is not added if a late answer has reported its message as accepted, before the log that opened its next
-- run had read that answer: it counts as sent already. The log has its row at the new run, so the batch that queues it
-- also reports that this run ended as sent, without an attempt; and, if nothing else was added, that the blast has ended.
-- Without allow-oom on purpose: a full Redis accepts no new work, so it can always drain.
-- A crash before: nothing happened. After: a repeated chunk finds the watermark and adds nothing twice.

local blast, series, first, FROM = ARGV[1], ARGV[2], tonumber(ARGV[3]), 17
local lane, scheduled_us = ARGV[5], tonumber(ARGV[6])
local key = C .. ':blast:' .. blast
local state = redis.call('HMGET', key, 'wm:' .. series, 'cancelled_at', 'paused', 'incomplete_at', 'scheduled_whole')
local watermark = tonumber(state[1] or 0)
if series == 'jobs' and (state[2] or state[4]) then return { 0, watermark, 1 } end
local n = (#ARGV - FROM + 1) / 2
if first > watermark then return redis.error_reply('GAP the chunk starts at ' .. first .. ', the watermark is ' .. watermark) end
local skip = watermark - first
if skip >= n then return { 0, watermark, 0 } end

-- The files that jobs need, by index. A file may have gone with its last job since it was written, or with a failed master.
local files = {}
for index, needs in string.gmatch(ARGV[12], '(%d+) ([^\n]+)') do
  files[index] = needs
  for digest in string.gmatch(ARGV[11] == '1' and needs or '', ' (%S+)') do
    if redis.call('EXISTS', file_key(blast, digest)) == 0 then return redis.error_reply('FILES ' .. digest .. ' is gone') end
  end
end

if ARGV[15] ~= '' and not state[3] then
  redis.call('HSET', key, 'paused', ARGV[15])
  state[3] = ARGV[15]
end
local now = now_us()
local now_ms = math.floor(now / 1000)
local later = scheduled_us > now
local large = lane == 'bulk' and tonumber(ARGV[4]) >= tonumber(ARGV[9])
local events = { ARGV[8] }

-- The record of an earlier run must not affect this one, unless the message was sent in the run before.
local function start_run(job_id, run)
  local stall = stall_of(job_id)
  if stall and stall.outcome == 'sent' and stall.run == run - 1 then
    events[#events + 1] = cmsgpack.pack({ 'sent', now_ms, job_id, run, 0, '', 'accepted in the previous run, reported late', 0 })
    return false
  end
  if stall then keep_stall(job_id, { stalls = 0, uncertain = 0, run = run, outcome = '-' }, now_ms) end
  redis.call('HDEL', C .. ':cancels', job_id)
  return true
end

-- The positions of the pairs to add.
local places = {}
for at = FROM + 2 * skip, #ARGV, 2 do
  if series == 'jobs' or start_run(ARGV[at], tonumber(ARGV[13])) then places[#places + 1] = at end
end
local added = #places
if ARGV[12] ~= '' then
  for _, at in ipairs(places) do
    local index = string.match(ARGV[at], '^[^:]+:(%d+):')
    if files[index] then need_files(blast, index, files[index]) end
  end
end

local function add_later()
  local kind = 's' .. string.sub(lane, 1, 1)
  for _, at in ipairs(places) do
    local job_id, job = ARGV[at], ARGV[at + 1]
    redis.call('ZADD', C .. ':later', int(scheduled_us), job_id)
    redis.call('HSET', C .. ':later:jobs', job_id, kind .. job)
  end
  gauge('later_scheduled', added)
end

local function add_to_stream(stream)
  local first_id, last_id
  local next_id = '*' -- then of the same ms: servers whose time moves within a script would have several in a chunk
  for _, at in ipairs(places) do
    last_id = redis.call('XADD', stream, next_id, 'd', ARGV[at + 1])
    if not first_id then first_id, next_id = last_id, string.match(last_id, '^%d+-') .. '*' end
  end
  return last_id, first_id
end

-- Record which entries of the blast's own stream have which jobs, so that a sweep need not read them (`sweep_chunks`).
-- Without the record they are read. It expires in case that an earlier version deletes the stream.
local CHUNKS_KEPT_MS = 30 * 86400 * 1000
local function record_chunk(last_id, first_id)
  if ARGV[16] == '' or added ~= n then return end
  local ms, low = string.match(first_id, '^(%d+)-(%d+)$')
  local last_ms, high = string.match(last_id, '^(%d+)-(%d+)$')
  if ms ~= last_ms or tonumber(high) - tonumber(low) ~= added - 1 then return end
  local chunks = C .. ':chunks:' .. blast
  local number = redis.call('HLEN', chunks)
  redis.call('HSET', chunks, number, table.concat({ ms, low, high, ARGV[13], ARGV[16] }, ' '))
  if number == 0 then redis.call('PEXPIRE', chunks, CHUNKS_KEPT_MS) end
end

-- Where in the shared streams this blast's jobs may be, for searches.
redis.call('HSETNX', key, 'from', int(now_ms - 1000) .. '-0') -- ids may be from a cached, older time
if added == 0 then
  -- all were accepted before
elseif later and not large then
  add_later()
elseif large or state[3] then
  local stream = C .. ':jobs:bulk:' .. blast
  if redis.call('SADD', C .. ':streams', blast) == 1 then make_group(stream) end
  record_chunk(add_to_stream(stream))
  if later and not state[3] then serve_from(stream, scheduled_us) elseif not state[3] then serve(stream) end
else
  local stream = C .. ':jobs:' .. (lane == 'bulk' and 'due' or lane)
  redis.call('HSET', key, 'to', (add_to_stream(stream)))
  serve(stream)
end

redis.call('HSET', key, 'wm:' .. series, int(first + n), 'moved_at', int(now_ms), 'changed_at', int(now_ms))
if series == 'jobs' then
  redis.call('HSET', key, 'total', ARGV[4], 'lane', lane)
  local parts, shares = string.match(ARGV[14], '^(%d+) (%d+)$')
  if parts ~= '1' then redis.call('HSET', key, 'parts', parts) end
  if shares ~= '1' then redis.call('HSET', key, 'shares', shares) end
  redis.call('HINCRBY', key, 'enqueued', added)
  if state[3] then gauge_paused(key) end
  if later or (large and state[5]) then count(blast, 'scheduled', added) end
  if later then
    redis.call('HSET', key, 'scheduled_at', int(scheduled_us / 1000))
    if large then redis.call('HSET', key, 'scheduled_whole', 1) end -- its own stream is scheduled, not each job
  end
else
  count(blast, 'failed', -added)
  redis.call('HDEL', key, 'ended_at')
  redis.call('PERSIST', key)
end
count_channel('enqueued', added)
write_counts(now_ms, nil, events)
if added == 0 then end_if_complete(blast, now_ms, tonumber(ARGV[10]), events) end
emit(ARGV[7], events)
wake_senders()
return { added, first + n, 0 }
