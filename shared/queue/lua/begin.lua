#!lua flags=allow-oom
-- Move jobs from `<sender>:buf` to `<sender>:tx`, the record that their sending may have begun.
--
-- KEYS  the channel's hash tag
-- ARGV  1 sender · 2 sequence · 3 head of the event batch · 4 µs between two starts, 0 for no limit ·
--       5 µs that a start may be granted ahead · 6 policy on uncertain sends · 7 times found abandoned that make
--       a job poison · 8 µs allowed for jitter · 9 concurrency · 10 … nine a job: stream, id, job id, run,
--       expiry in ms (0: never),
--       "m" + address where it is marketing mail else "t" + address, "r" where it waits for a further attempt,
--       "x" where all its attempts are used (its last was abandoned), else "q", "<name> <µs between starts> <burst>
--       <1 if its start was booked before>" for the limit of its domain or recipient, else "", the packed event
-- Result  one word a job, joined by commas: "g<µs>" granted, to be started after so long · "a<µs>" granted,
--       to be sent alone · "lost" not owned · "cancelled" · "expired" · "suppressed" · "sent" already, by a late
--       answer · "paused" blast · "held" channel paused or this sender's lease lapsed · "limited<µs>" no start
--       free for so long · "booked<ms>" its limit's start is booked for that time · "uncertain" · "poison" ·
--       "wait" must be sent alone and others are in flight ·
--       "crowded" the concurrency is reached
-- Refusals cost nothing in limits. A repeated call is answered as before; a new call for an entry that is in
-- the sender's own `:tx` already is refused as lost: a task stands behind it.
-- A crash before: the jobs are surely not sent. After: they are uncertain, and the reaper finds them in `:tx`.

local sender, sequence = ARGV[1], ARGV[2]
local kept = replayed(sender, 'begin', sequence)
if kept then return kept end

local now = now_us()
local now_ms = math.floor(now / 1000)
local default_gap, ahead, policy, poison = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local jitter, concurrency = tonumber(ARGV[8]), tonumber(ARGV[9])
local buf, tx = sender .. ':buf', sender .. ':tx'
local n = (#ARGV - 9) / 9
local held = redis.call('GET', C .. ':paused') or redis.call('EXISTS', C .. ':sender:' .. sender) == 0
local any_stall = redis.call('EXISTS', C .. ':stalls') == 1
local any_suppressed = redis.call('EXISTS', C .. ':suppressed') == 1
local any_cancel = redis.call('EXISTS', C .. ':cancels') == 1

local mine, flying, in_flight = {}, {}, 0
local blasts, claims, events, words = {}, {}, {}, {}
local tats = {}
local alone_granted = false

local function blast_state(blast)
  local b = blasts[blast]
  if not b then
    local v = redis.call('HMGET', C .. ':blast:' .. blast, 'cancelled', 'paused')
    b = { cancelled = v[1], paused = v[2] }
    blasts[blast] = b
  end
  return b
end

-- GCRA: the earliest start that keeps `gap` from the last, `burst` of them free after a rest; nil where it is too
-- far ahead.
local function start_at(key, gap, burst, horizon)
  local tat = tats[key]
  if not tat then tat = tonumber(redis.call('GET', key) or 0) end
  local at = math.max(tat - (burst - 1) * gap, now)
  tats[key] = tat
  if at > now + horizon then return nil, at end
  return at, at
end

local function charge(key, gap, at)
  local tat = math.max(tats[key], at) + gap
  tats[key] = tat
  redis.call('SET', key, int(tat), 'PX', int(math.ceil((tat - now) / 1000) + 1000))
end

local rate = redis.call('HGET', C .. ':config', 'gap_us')
local gap = rate and tonumber(rate) or default_gap

local function refusal(job_id, blast, run, expires, address, stall, waits)
  local b = blast_state(blast)
  if stall and stall.outcome == 'sent' and stall.run == run then return 'sent' end
  if b.cancelled or (any_cancel and redis.call('HEXISTS', C .. ':cancels', job_id) == 1) then return 'cancelled' end
  if expires > 0 and now_ms >= expires then return 'expired' end
  if any_suppressed then
    local reason = redis.call('HGET', C .. ':suppressed', string.sub(address, 2))
    if reason and (string.sub(address, 1, 1) == 'm' or string.sub(reason, 1, 11) == 'hard_bounce') then return 'suppressed' end
  end
  if stall and stall.run == run and stall.stalls + stall.uncertain > 0 then
    if stall.stalls >= poison then return 'poison' end
    if policy == 'hold' or stall.uncertain > 1 then return 'uncertain' end
  end
  if waits == 'x' then return 'uncertain' end
  if b.paused then return 'paused' end
  return nil
end

-- The job's own limit first (it books), then the channel's; charged only when both allow.
local function earliest(limit)
  local name, own_gap, burst, booked = string.match(limit, '^(%S+) (%d+) (%d+) (%d)$')
  own_gap, burst = tonumber(own_gap), tonumber(burst)
  local at = now
  if name and booked == '0' then
    local key = C .. ':limit:' .. name
    local free, when = start_at(key, own_gap, burst, ahead)
    if not free then
      charge(key, own_gap, when)
      return nil, 'booked' .. int(math.ceil(when / 1000))
    end
    at = free
  end
  if gap > 0 then
    local free, when = start_at(C .. ':limit', gap, 1, ahead)
    if not free then return nil, 'limited' .. int(when - now - ahead) end
    at = math.max(at, free)
    charge(C .. ':limit', gap, at)
  end
  if name and booked == '0' then charge(C .. ':limit:' .. name, own_gap, at) end
  return at
end

local function decide(i)
  local base = 9 + (i - 1) * 9
  local stream, id, job_id, run = ARGV[base + 1], ARGV[base + 2], ARGV[base + 3], tonumber(ARGV[base + 4])
  if not mine[stream] then
    mine[stream] = pending_of(stream, buf, 10000)
    flying[stream] = pending_of(stream, tx, 1000)
    for _ in pairs(flying[stream]) do in_flight = in_flight + 1 end
  end
  if not mine[stream][id] then return 'lost' end
  if held then return 'held' end
  local blast = string.match(job_id, '^[^:]+')
  local stall = any_stall and stall_of(job_id) or nil
  local word = refusal(job_id, blast, run, tonumber(ARGV[base + 5]), ARGV[base + 6], stall, ARGV[base + 7])
  if word then return word end
  local alone = stall and stall.run == run and stall.stalls > 0
  if in_flight >= concurrency then return 'crowded' end
  if alone_granted or (alone and in_flight > 0) then return 'wait' end
  local at, why = earliest(ARGV[base + 8])
  if not at then return why end
  in_flight = in_flight + 1
  claims[stream] = claims[stream] or {}
  table.insert(claims[stream], id)
  count(blast, 'processing', 1)
  if ARGV[base + 7] ~= 'q' then count(blast, 'retrying', -1) end
  events[#events + 1] = ARGV[base + 9]
  alone_granted = alone_granted or alone
  return (alone and 'a' or 'g') .. int(at - now)
end

for i = 1, n do words[i] = decide(i) end
for stream, ids in pairs(claims) do
  ids[#ids + 1] = 'JUSTID' -- in the table: `unpack` gives one value only unless it stands last
  redis.call('XCLAIM', stream, GROUP, tx, 0, unpack(ids))
end
write_counts(now_ms, nil, events)
emit(ARGV[3], events)
return remember(sender, 'begin', sequence, table.concat(words, ','))
