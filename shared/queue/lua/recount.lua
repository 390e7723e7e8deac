#!lua flags=allow-oom
-- Count what is in Redis and compare it with the counters, the gauges and the counts of the blasts; correct them.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS limits
-- ARGV  1 "1" to correct, "0" to check only · 2 head of the event batch · 3 ms to keep an ended blast ·
--       4 most jobs to read · 5 … ids of blasts that have not ended
-- Result  JSON: jobs in Redis, whether they were counted by blast, blasts whose counts were wrong ([id, jobs missing,
--         jobs too many]), jobs by which the channel's counters were off, gauges that were wrong
-- Jobs that a blast counts and that do not exist are lost: from then on they count as failed. With more jobs than ARGV 4, or
-- more than 4 MB in large ones, only the channel's counters are compared, because the script blocks the server meanwhile.
-- Jobs that this server cannot read cause no correction.
-- Safe to repeat.

local repair, keep_ms, most = ARGV[1] == '1', tonumber(ARGV[3]), tonumber(ARGV[4])
local now_ms = math.floor(now_us() / 1000)
local SMALL, PAGE_BYTES, MOST_BYTES = 1024, 1000000, 4000000
local large_bytes = 0
local OPEN = { 'processing', 'retrying', 'scheduled', 'limited' }
local streams = { unpack(SHARED_STREAMS) }
for _, blast in ipairs(redis.call('SMEMBERS', C .. ':streams')) do streams[#streams + 1] = C .. ':jobs:bulk:' .. blast end

local total, active = redis.call('HLEN', C .. ':later:jobs'), 0
for _, stream in ipairs(streams) do
  total = total + redis.call('XLEN', stream)
  local summary = redis.pcall('XPENDING', stream, GROUP)
  if not summary.err and type(summary[4]) == 'table' then
    for _, row in ipairs(summary[4]) do
      if string.sub(row[1], -3) == ':tx' then active = active + tonumber(row[2]) end
    end
  end
end

-- Blasts with jobs that this server cannot read are left unchanged, and then so are all gauges.
local unread, any_unread = {}, false
local function note_unread(raw)
  local _, blast = read_id(raw)
  if not blast then return end
  unread[blast], any_unread = true, true
end

local found, sums = {}, { processing = active, retrying = 0, scheduled = 0, later_scheduled = 0 }
local function note(blast, status)
  local f = found[blast]
  if not f then
    f = { all = 0, processing = 0, retrying = 0, scheduled = 0, limited = 0 }
    found[blast] = f
  end
  f.all = f.all + 1
  if f[status] then f[status] = f[status] + 1 end
  if status ~= 'processing' and sums[status] then sums[status] = sums[status] + 1 end
end

local function waits(job, made)
  if job[9] + made > 0 or job[10] > 0 then return 'retrying' end
  return 'queued'
end

local function never_served(stream)
  local blast = bulk_blast(stream)
  if not blast then return false end
  local whole = redis.call('HEXISTS', C .. ':blast:' .. blast, 'scheduled_whole') == 1
  local groups = redis.call('XINFO', 'GROUPS', stream)
  return whole and #groups > 0 and groups[1][8] == '0-0'
end

local function walk(stream)
  if redis.call('XLEN', stream) == 0 then return end
  local held = {}
  local rows = redis.pcall('XPENDING', stream, GROUP, '-', '+', most + 1)
  if not rows.err then
    for _, row in ipairs(rows) do held[row[1]] = row end
  end
  local scheduled = never_served(stream)
  local function count_job(id, raw)
    if not held[id] and is_untried(raw) then
      local _, _, blast = pcall(cmsgpack.unpack_limit, raw, 1, 1)
      if type(blast) == 'string' then return note(blast, scheduled and 'scheduled' or 'queued') end
    end
    local job = read_job(raw)
    if not job then return note_unread(raw) end
    local row, status = held[id], nil
    if scheduled then
      status = 'scheduled'
    elseif not row then
      status = waits(job, 0)
    elseif string.sub(row[2], -3) == ':tx' then
      status = 'processing'
    elseif row[2] == '~retry' then
      status = 'retrying'
    else
      status = waits(job, string.sub(row[2], 1, 1) == '~' and row[4] or math.max(row[4] - 1, 0))
    end
    note(job[1], status)
  end
  local following, page, bytes = '-', 1, 0
  repeat
    local entries = redis.call('XRANGE', stream, following, '+', 'COUNT', page)
    bytes = 0
    for _, entry in ipairs(entries) do
      count_job(entry[1], entry[2][2])
      bytes = bytes + #entry[2][2]
      large_bytes = large_bytes + math.max(0, #entry[2][2] - SMALL)
    end
    local whole = #entries == page and large_bytes <= MOST_BYTES
    if #entries > 0 then following = '(' .. entries[#entries][1] end
    page = math.max(1, math.min(page * 4, 512, math.floor(page * PAGE_BYTES / math.max(bytes, 1))))
  until not whole
end

local function walk_later()
  for _, job_id in ipairs(redis.call('HKEYS', C .. ':later:jobs')) do
    if large_bytes > MOST_BYTES then return end
    local blast, kept = string.match(job_id, '^[^:]+'), redis.call('HGET', C .. ':later:jobs', job_id)
    large_bytes = large_bytes + math.max(0, #kept - SMALL)
    if string.sub(kept, 1, 1) == 's' then
      note(blast, 'scheduled')
      sums.later_scheduled = sums.later_scheduled + 1
    else
      local _, _, raw, limit = read_later(kept)
      local job = read_job(raw)
      if not job then note_unread(raw) end
      note(blast, job and waits(job, 0) or 'queued')
      if limit then found[blast].limited = found[blast].limited + 1 end
    end
  end
end

local out = { total = total, by_blast = total <= most, blasts = {}, gauges = {}, off = 0 }
local events = {}

local function check_blast(blast)
  if unread[blast] then return end
  local f = found[blast] or { all = 0, processing = 0, retrying = 0, scheduled = 0, limited = 0 }
  local key = C .. ':blast:' .. blast
  local v = redis.call('HMGET', key, 'total', 'enqueued', 'processing', 'retrying', 'scheduled', 'limited', unpack(TERMINAL))
  local open = tonumber(v[2] or 0)
  for i = 1, #TERMINAL do open = open - tonumber(v[2 + #OPEN + i] or 0) end
  local wrong = open ~= f.all
  for i, status in ipairs(OPEN) do wrong = wrong or tonumber(v[2 + i] or 0) ~= f[status] end
  if not wrong then return end
  local missing, many = math.max(0, open - f.all), math.max(0, f.all - open)
  out.blasts[#out.blasts + 1] = { blast, missing, many }
  if not repair then return end
  for _, status in ipairs(OPEN) do redis.call('HSET', key, status, f[status]) end
  if missing > 0 then
    redis.call('HINCRBY', key, 'failed', missing)
    redis.call('HINCRBY', C .. ':counters', 'failed', missing)
  elseif many > 0 then
    redis.call('HINCRBY', key, 'enqueued', many)
    redis.call('HINCRBY', C .. ':counters', 'enqueued', many)
  end
  if tonumber(v[1] or 0) < tonumber(v[2] or 0) + many then redis.call('HSET', key, 'total', int(tonumber(v[2] or 0) + many)) end
  end_if_complete(blast, now_ms, keep_ms, events)
end

if out.by_blast then
  for _, stream in ipairs(streams) do
    if large_bytes <= MOST_BYTES then walk(stream) end
  end
  walk_later()
  out.by_blast = large_bytes <= MOST_BYTES
end

if out.by_blast then
  local checked = {}
  for i = 5, #ARGV do
    checked[ARGV[i]] = true
    check_blast(ARGV[i])
  end
  for blast in pairs(found) do
    if not checked[blast] then check_blast(blast) end
  end
end

-- The jobs that pauses hold, by the counts of the blasts, which are correct by now.
sums.paused = 0
for i = 5, #ARGV do
  local key = C .. ':blast:' .. ARGV[i]
  local v = redis.call('HMGET', key, 'paused', 'paused_jobs', 'enqueued', 'processing', 'scheduled', unpack(TERMINAL))
  local held = tonumber(v[3] or 0)
  for j = 4, 5 + #TERMINAL do held = held - tonumber(v[j] or 0) end
  if v[1] then sums.paused = sums.paused + held end
  if repair and v[1] then redis.call('HSET', key, 'paused_jobs', held) end
end

local counters = redis.call('HMGET', C .. ':counters', 'enqueued', unpack(TERMINAL))
out.off = tonumber(counters[1] or 0) - total
for i = 1, #TERMINAL do out.off = out.off - tonumber(counters[1 + i] or 0) end
if repair and out.off ~= 0 then redis.call('HINCRBY', C .. ':counters', 'enqueued', int(-out.off)) end

for name, sum in pairs(sums) do
  if (out.by_blast and not any_unread) or name == 'processing' or name == 'paused' then
    if tonumber(redis.call('HGET', C .. ':gauges', name) or 0) ~= sum then
      out.gauges[#out.gauges + 1] = name
      if repair then redis.call('HSET', C .. ':gauges', name, sum) end
    end
  end
end
emit(ARGV[2], events)
return cjson.encode(out)
