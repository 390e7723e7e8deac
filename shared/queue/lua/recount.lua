#!lua flags=allow-oom
-- Count what is in Redis and compare it with the counters, the gauges and the counts of the blasts; correct them.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS limits, counting
-- ARGV  1 "1" to correct, "0" to check only · 2 head of the event batch · 3 ms to keep an ended blast ·
--       4 most jobs to read, -1 to compare only the channel's counters · 5 … ids of blasts that have not ended
-- Result  JSON: jobs in Redis, whether they were counted by blast, blasts whose counts were wrong ([id, jobs missing,
--         jobs too many]), jobs by which the channel's counters were off, gauges that were wrong
-- Jobs that a blast counts and that do not exist are lost: from then on they count as failed. With more jobs than ARGV 4, or
-- more than 1 MB in large ones, nothing is corrected, because the script blocks the server meanwhile: `count_jobs` and
-- `correct_counts` check the blasts, and then this script the channel's counters.
-- Jobs that this server cannot read cause no correction.
-- Safe to repeat.

local repair, keep_ms, most = ARGV[1] == '1', tonumber(ARGV[3]), tonumber(ARGV[4])
local now_ms = math.floor(now_us() / 1000)
local SMALL, PAGE_BYTES, MOST_BYTES = 1024, 500000, 1000000
local large_bytes = 0
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

local function walk(stream)
  if redis.call('XLEN', stream) == 0 then return end
  local held = {}
  local rows = redis.pcall('XPENDING', stream, GROUP, '-', '+', most + 1)
  if not rows.err then
    for _, row in ipairs(rows) do held[row[1]] = row end
  end
  local scheduled = never_served(stream)
  local function count_job(id, raw)
    local blast, status = status_of(raw, held[id], scheduled)
    if status then note(blast, status) else note_unread(raw) end
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
  local none = { all = 0, processing = 0, retrying = 0, scheduled = 0, limited = 0 }
  local missing, many = check_counts(blast, found[blast] or none, repair, now_ms, keep_ms, events)
  if missing then out.blasts[#out.blasts + 1] = { blast, missing, many } end
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

local final = repair and (out.by_blast or most < 0)

-- The jobs that pauses hold, by the counts of the blasts, which are correct by now. A blast may be newer than the list.
local open_blasts = {}
for i = 5, #ARGV do open_blasts[ARGV[i]] = true end
for blast in pairs(found) do open_blasts[blast] = true end
sums.paused = 0
for blast in pairs(open_blasts) do
  local key = C .. ':blast:' .. blast
  local v = redis.call('HMGET', key, 'paused', 'paused_jobs', 'enqueued', 'processing', 'scheduled', unpack(TERMINAL))
  local held = tonumber(v[3] or 0)
  for j = 4, 5 + #TERMINAL do held = held - tonumber(v[j] or 0) end
  if v[1] then sums.paused = sums.paused + held end
  if final and v[1] then redis.call('HSET', key, 'paused_jobs', held) end
end

local counters = redis.call('HMGET', C .. ':counters', 'enqueued', unpack(TERMINAL))
out.off = tonumber(counters[1] or 0) - total
for i = 1, #TERMINAL do out.off = out.off - tonumber(counters[1 + i] or 0) end
if final and out.off ~= 0 then redis.call('HINCRBY', C .. ':counters', 'enqueued', int(-out.off)) end

for name, sum in pairs(sums) do
  if (out.by_blast and not any_unread) or name == 'processing' or name == 'paused' then
    if tonumber(redis.call('HGET', C .. ':gauges', name) or 0) ~= sum then
      out.gauges[#out.gauges + 1] = name
      if final then redis.call('HSET', C .. ':gauges', name, sum) end
    end
  end
end
emit(ARGV[2], events)
return cjson.encode(out)
