#!lua flags=allow-oom
-- Move jobs from `<sender>:buf` to `<sender>:tx`, the record that their sending may have begun.
--
-- KEYS  the channel's hash tag
-- PARTS suppressions
-- ARGV  1 sender · 2 sequence · 3 head of the event batch · 4 µs between two starts, 0 for no limit (one set at run
--       time wins) · 5 µs that a start may be granted ahead · 6 policy on uncertain sends · 7 times found abandoned
--       that make a job poison · 8 most in flight · 9 how many are in flight, as the sender knows · 10 µs that this
--       sender needs to get ready: under the channel's limit it is granted no start before · 11 the most that any needs ·
--       12 … nine a job: stream, id, job id, run, expiry in ms (0: never),
--       "m" + identity of the address where it is marketing mail, else "t" + it, "r" where it waits for a further attempt,
--       "x" where all its attempts are used (its last was abandoned), else "q", with the delivery count behind it that
--       the sender knows (an entry that went and came again since is lost to it), "<name> <µs between starts> <burst>
--       <ms its start was booked for, or 0>" for the limit of its domain or recipient, else "", the packed event
-- Result  one word a job, joined by commas: "g" granted, to be started at once · "s<µs>" granted under the
--       channel's limit, to be started after so long and not much later · "G" and "S<µs>" the same, to be sent
--       alone · "lost" not owned · "cancelled" · "expired" · "suppressed" · "sent" already, by a late answer ·
--       "paused" blast · "held" channel paused or this sender's lease lapsed · "limited<µs>" no start free for so
--       long · "booked<ms>" its limit's start is booked for that time · "uncertain" · "poison" · "wait" must be
--       sent alone and others are in flight · "crowded" no more may be in flight
-- Refusals cost nothing in limits. A repeated call is answered as before; a new call for an entry that is in
-- the sender's own `:tx` already is refused as lost: a task stands behind it.
-- A crash before: the jobs are surely not sent. After: they are uncertain, and the reaper finds them in `:tx`.

local sender, sequence, FROM, FIELDS = ARGV[1], ARGV[2], 12, 9
local kept = replayed(sender, 'begin', sequence)
if kept then return kept end

local now = now_us()
local now_ms = math.floor(now / 1000)
local ahead, policy, poison = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local need, most_need = tonumber(ARGV[10]), tonumber(ARGV[11])
local most_in_flight, in_flight = tonumber(ARGV[8]), tonumber(ARGV[9])
local buf, tx = sender .. ':buf', sender .. ':tx'
local n = (#ARGV - FROM + 1) / FIELDS
local held = redis.call('GET', C .. ':paused') or redis.call('EXISTS', C .. ':sender:' .. sender) == 0
local any_stall = redis.call('EXISTS', C .. ':stalls') == 1
local any_suppressed = redis.call('EXISTS', C .. ':suppressed') == 1
local any_cancel = redis.call('EXISTS', C .. ':cancels') == 1
local gap = tonumber(redis.call('HGET', C .. ':config', 'gap_us') or ARGV[4])

local blasts, claims, events, words = {}, {}, {}, {}
local alone_granted = false

local function blast_state(blast)
  local b = blasts[blast]
  if not b then
    local v = redis.call('HMGET', C .. ':blast:' .. blast, 'cancelled_at', 'paused')
    b = { cancelled = v[1], paused = v[2] }
    blasts[blast] = b
  end
  return b
end

-- The channel's limit keeps the last start granted, so that a change of the rate holds from the next one on. One
-- that lies farther ahead than was ever granted was written before the server's clock went back.
local last_start
local function channel_start()
  if not last_start then
    last_start = tonumber(redis.call('GET', C .. ':limit') or 0)
    if last_start > now + most_need + ahead + 1000000 then last_start = 0 end
  end
  local at = math.max(last_start + gap, now + need)
  if at > now + need + ahead then return nil, at end
  return at
end

-- A domain's or recipient's limit is a GCRA, `burst` starts free after a rest. Beyond it starts are booked one
-- behind the other, so its key holds when all that was promised is over.
local tats = {}
local function own_start(key, own_gap, burst)
  if not tats[key] then tats[key] = tonumber(redis.call('GET', key) or 0) end
  local at = math.max(tats[key] - (burst - 1) * own_gap, now)
  return at, at <= now + ahead
end

local function charge_own(key, own_gap, at)
  local tat = math.max(tats[key], at) + own_gap
  tats[key] = tat
  redis.call('SET', key, int(tat), 'PX', int(math.ceil((tat - now) / 1000) + 1000))
end

-- The job's own limit first (it books), then the channel's; charged only when both allow. A booked start holds for
-- a while: jobs that a pause kept past theirs would else come all at once.
local function earliest(limit)
  local name, own_gap, burst, booked_ms = string.match(limit, '^(%S+) (%d+) (%d+) (%d+)$')
  local at, key = now, nil
  if name then
    own_gap, burst, booked_ms = tonumber(own_gap), tonumber(burst), tonumber(booked_ms)
    if now_ms > booked_ms + math.max(1000, 2 * own_gap / 1000) then key = C .. ':limit:' .. name end
  end
  if key then
    local when, free = own_start(key, own_gap, burst)
    if not free then
      charge_own(key, own_gap, when)
      return nil, 'booked' .. int(math.ceil(when / 1000))
    end
    at = when
  end
  if gap > 0 then
    local free, when = channel_start()
    if not free then return nil, 'limited' .. int(when - now - need - ahead) end
    at = math.max(at, free)
    last_start = at
    redis.call('SET', C .. ':limit', int(at), 'PX', 3600000)
  end
  if key then charge_own(key, own_gap, at) end
  return at
end

local function refusal(job_id, blast, run, expires, address, stall, waits)
  local b = blast_state(blast)
  if stall and stall.outcome == 'sent' and stall.run == run then return 'sent' end
  if b.cancelled or (any_cancel and redis.call('HEXISTS', C .. ':cancels', job_id) == 1) then return 'cancelled' end
  if expires > 0 and now_ms >= expires then return 'expired' end
  if any_suppressed then
    local stored = redis.call('HGET', C .. ':suppressed', string.sub(address, 2))
    for _, one in ipairs(stored and suppressions_of(stored) or {}) do
      if holds(one, now_ms) and (one[1] == 'all' or string.sub(address, 1, 1) == 'm') then return 'suppressed' end
    end
  end
  if stall and stall.run == run and stall.stalls + stall.uncertain > 0 then
    if stall.stalls >= poison then return 'poison' end
    if policy == 'hold' or stall.uncertain > 1 then return 'uncertain' end
  end
  if waits == 'x' then return 'uncertain' end
  if b.paused then return 'paused' end
  return nil
end

local booked_in, granted_in = {}, {}
local function decide(base)
  local stream, id, job_id, run = ARGV[base], ARGV[base + 1], ARGV[base + 2], tonumber(ARGV[base + 3])
  if held then return 'held' end
  local blast = string.match(job_id, '^[^:]+')
  local stall = any_stall and stall_of(job_id) or nil
  local word = refusal(job_id, blast, run, tonumber(ARGV[base + 4]), ARGV[base + 5], stall, string.sub(ARGV[base + 6], 1, 1))
  if word then return word end
  local alone = stall and stall.run == run and stall.stalls > 0
  if in_flight >= most_in_flight then return 'crowded' end
  if alone_granted or (alone and in_flight > 0) then return 'wait' end
  local at, why = earliest(ARGV[base + 7])
  if not at then
    if string.sub(why, 1, 6) == 'booked' then booked_in[stream] = (booked_in[stream] or 0) + 1 end
    return why
  end
  in_flight = in_flight + 1
  granted_in[stream] = true
  claims[stream] = claims[stream] or {}
  table.insert(claims[stream], id)
  count(blast, 'processing', 1)
  if string.sub(ARGV[base + 6], 1, 1) ~= 'q' then count(blast, 'retrying', -1) end
  events[#events + 1] = ARGV[base + 8]
  alone_granted = alone_granted or alone
  if gap > 0 then return (alone and 'S' or 's') .. int(math.max(0, at - now)) end
  return alone and 'G' or 'g'
end

local asked, mine = {}, {}
for i = 1, n do
  local base = FROM + (i - 1) * FIELDS
  local stream = ARGV[base]
  asked[stream] = asked[stream] or {}
  table.insert(asked[stream], ARGV[base + 1])
end
for stream, ids in pairs(asked) do mine[stream] = owned(stream, buf, ids) end

for i = 1, n do
  local base = FROM + (i - 1) * FIELDS
  local deliveries = mine[ARGV[base]][ARGV[base + 1]]
  words[i] = deliveries == tonumber(string.sub(ARGV[base + 6], 2)) and decide(base) or 'lost'
end
for stream, ids in pairs(claims) do
  ids[#ids + 1] = 'JUSTID' -- in the table: `unpack` gives one value only unless it stands last
  redis.call('XCLAIM', stream, GROUP, tx, 0, unpack(ids))
end
-- A blast of which all were booked rests for a moment: its starts are promised far ahead, and what it has further
-- would only be moved about.
for stream, booked in pairs(booked_in) do
  if booked >= 10 and not granted_in[stream] and bulk_blast(stream) then
    serve_from(stream, now + 1000000)
  end
end
write_counts(now_ms, nil, events)
emit(ARGV[3], events)
return remember(sender, 'begin', sequence, table.concat(words, ','))
