#!lua flags=allow-oom
-- Take over the entries of a dead sender, or entries that a live sender's tasks have lost.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 dead sender · 2 head of the event batch · 3 most entries per call · 4 the reason in words ·
--       5 "all", or the only entries to take ("<stream> <id>"), joined by commas · 6 cursor ("0" at first) · 7 streams per
--       page · 8 … three per job that an earlier call could not read: "<stream> <id>", job id ("" if the caller cannot read
--       it either), "<run> <attempts>"
-- Result  {taken from :buf, taken from :tx, 1 if nothing is left, cursor of the next page (unchanged if this page has
--         more), stream, id, … of jobs that this server cannot read and that were left}
-- A sender with a heartbeat is not dead, whatever a reaper saw earlier: this call may come long after the check. Then only
-- entries that are named are taken, because their sender gives them up itself.
-- It ends early after about two megabytes, or the most entries in all streams together, because Redis is blocked meanwhile.
-- Entries of :buf go to `~back` at no cost. Those of :tx are uncertain: recorded in `stalls`, and put at `~back` for a
-- further attempt.
-- A crash before or after: the next check of any reaper finds what is left.

local dead, now_ms = ARGV[1], math.floor(now_us() / 1000)
local most = tonumber(ARGV[3])
if ARGV[5] == 'all' and redis.call('EXISTS', C .. ':sender:' .. dead) == 1 then return { 0, 0, 1, '0' } end
local only
local streams, following = {}, '0'
if ARGV[5] == 'all' then
  streams, following = held_streams(dead, ARGV[6], ARGV[7])
else
  only = {}
  local named = {}
  for entry in string.gmatch(ARGV[5], '[^,]+') do
    local stream = string.match(entry, '^%S+')
    if not named[stream] then streams[#streams + 1], named[stream] = stream, true end
    only[entry] = true
  end
end
local events, from_buf, from_tx, left = {}, 0, 0, false
local MOST_BYTES, bytes = 2000000, 0

local read, unread = {}, {}
for i = 8, #ARGV, 3 do
  local run, attempts = string.match(ARGV[i + 2], '^(%d+) (%d+)$')
  read[ARGV[i]] = { ARGV[i + 1], tonumber(run), tonumber(attempts) }
end

-- Return job id, run and attempts of an entry, read here or by the caller.
local function parts_of(stream, id, raw)
  bytes = bytes + #raw
  local job = read_job(raw)
  if job then return job[1] .. ':' .. int(job[2]) .. ':' .. job[3], job[8], job[9] end
  local known = read[stream .. ' ' .. id]
  if known then return known[1], known[2], known[3] end
  return nil
end

local function take_buf(stream)
  if only then return end
  local wanted = most - from_buf - from_tx
  local rows = wanted > 0 and redis.pcall('XPENDING', stream, GROUP, '-', '+', wanted, dead .. ':buf') or {}
  if rows.err then return end
  for _, row in ipairs(rows) do
    give_back(stream, row[1], math.max(row[4] - 1, 0))
    from_buf = from_buf + 1
  end
end

-- Record that a job was abandoned in flight, and let it wait for a further attempt.
local function take_uncertain(stream, id, deliveries, job_id, run, attempts)
  give_back(stream, id, deliveries)
  from_tx = from_tx + 1
  local stall = stall_of(job_id)
  if not stall or stall.run ~= run then stall = { stalls = 0, uncertain = 0, run = run, outcome = '-' } end
  stall.stalls, stall.outcome = stall.stalls + 1, '-'
  keep_stall(job_id, stall, now_ms)
  local blast = string.match(job_id, '^[^:]+')
  count(blast, 'processing', -1)
  count(blast, 'retrying', 1)
  count_channel('retried', 1)
  events[#events + 1] = cmsgpack.pack({ 'retrying', now_ms, job_id, run, attempts + deliveries, 'uncertain', 'abandoned', ARGV[4], 0, now_ms, '' })
end

-- Return whether to take an entry; one that the caller cannot read either stays.
local function is_wanted(place)
  return (not only or only[place]) and not (read[place] and read[place][1] == '')
end

local function take_from_tx(stream, row)
  local id, deliveries = row[1], row[4]
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if not entry then
    redis.call('XACK', stream, GROUP, id)
    return
  end
  local job_id, run, attempts = parts_of(stream, id, entry[2][2])
  if job_id then
    take_uncertain(stream, id, deliveries, job_id, run, attempts)
  else
    unread[#unread + 1], unread[#unread + 2] = stream, id
  end
end

local function take_tx(stream)
  local rows = redis.pcall('XPENDING', stream, GROUP, '-', '+', most, dead .. ':tx')
  if rows.err then return end
  for _, row in ipairs(rows) do
    if bytes > MOST_BYTES or from_buf + from_tx >= most then
      left = true
      return
    end
    if is_wanted(stream .. ' ' .. row[1]) then take_from_tx(stream, row) end
  end
  if #rows == most then left = true end
end

local function take(stream)
  local before = from_buf + from_tx
  take_buf(stream)
  take_tx(stream)
  if from_buf + from_tx > before then serve(stream) end
  if not only and not forget_held(dead, stream) then left = true end
end

for _, stream in ipairs(streams) do take(stream) end
if not left and not only and following == '0' then
  redis.call('HDEL', C .. ':senders', dead)
  redis.call('DEL', held_key(dead))
end
write_counts(now_ms, nil, events)
emit(ARGV[2], events)
if from_buf + from_tx > 0 then wake_senders() end
return { from_buf, from_tx, (left or following ~= '0') and 0 or 1, left and ARGV[6] or following, unpack(unread) }
