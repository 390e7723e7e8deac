#!lua flags=allow-oom
-- Move jobs from `<sender>:buf` to `<sender>:tx`: the record that their sends may have begun.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS limits, suppressions
-- ARGV  1 sender · 2 sequence · 3 head of the event batch · 4 µs between two starts, 0 for no limit (a rate set at run
--       time takes precedence) · 5 µs that a start may be granted ahead · 6 policy on uncertain sends: "resend", "hold",
--       or "repeat" (receivers recognise repetitions: they end no job, and none is sent alone) · 7 stalls that
--       make a job poison · 8 most jobs in flight · 9 jobs in flight, by the sender's count · 10 starts per period at the
--       spacing of ARGV 4 · 11 µs: how much later than the gap allows a start under the channel's limit may come ·
--       12 … nine per job: stream, id, job id, run, expiry in ms (0: never),
--       "m" (marketing) or "t" followed by the identity of the address, "r" (waits for a further attempt), "x" (all its
--       attempts are used, the last was abandoned) or "q", followed by the delivery count that the sender knows (if the
--       entry has another count, the sender's lease was lost), the limit of its domain or recipient: "<name> <µs between
--       starts> <burst> <starts per period> <µs> <first letter of the lane>" or "" (the last µs: how much later than the
--       gap allows its start may come, where no limit of the channel spaces it), the packed event
-- Result  one word per job, joined by commas: "g" granted, to be started immediately · "s<µs>" granted under the
--       channel's limit, to be started after this time and not much later · "o<µs>" the same where only its own limit
--       spaces starts · "G", "S<µs>" and "O<µs>" the same, to be sent alone · "lost" not in this sender's buffer ·
--       "cancelled" · "expired" · "suppressed" · "sent" already, by a late answer · "paused" its blast is ·
--       "held" the channel is paused, or this sender's heartbeat has lapsed · "limited<µs>" no start is free for this
--       time · "beyond" its own limit: it must wait in that limit's list · "full" the same, but the list holds enough
--       jobs of bulk blasts and the job's stream rests: it must be given back · "uncertain" · "poison" · "wait" it must
--       be sent alone and others are in flight · "crowded" the most jobs are in flight
-- Refused jobs are not charged to limits. A repeated call gets the same answer. A new call for an entry that is already
-- in the sender's own `:tx` is refused as lost, because a task holds it.
-- A crash before: the jobs are surely not sent. After: they are uncertain, and the reaper finds them in `:tx`.

local sender, sequence, FROM, FIELDS = ARGV[1], ARGV[2], 12, 9
local kept = replayed(sender, 'begin', sequence)
if kept then return kept end

local now = now_us()
local now_ms = math.floor(now / 1000)
local ahead, policy, poison = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local most_in_flight, in_flight = tonumber(ARGV[8]), tonumber(ARGV[9])
local buf, tx = sender .. ':buf', sender .. ':tx'
local n = (#ARGV - FROM + 1) / FIELDS
local held = redis.call('GET', C .. ':paused') or redis.call('EXISTS', C .. ':sender:' .. sender) == 0
local any_stall = redis.call('EXISTS', C .. ':stalls') == 1
local any_suppressed = redis.call('EXISTS', C .. ':suppressed') == 1
local any_cancel = redis.call('EXISTS', C .. ':cancels') == 1
local any_run = redis.call('EXISTS', C .. ':limits:runs') == 1
local config = redis.call('HMGET', C .. ':config', 'gap_us', 'rate')
local gap = tonumber(config[1] or ARGV[4])

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

-- A start may come as late as its sender reports. Without a burst, the starts that a period allows must together take
-- longer than the period plus that lateness. So as long as a late start matters, each start takes its share of the
-- greatest lateness.

-- The channel's limit stores the last start granted, so that a new rate holds from the next start on. A start farther
-- ahead than any that is granted was written before the server's clock was set back. The names of other limits are not
-- empty. A rate set at run time says how many starts it allows per period.
local channel = { name = '', gap = gap, late = gap > 0 and tonumber(ARGV[11]) or 0 }
channel.starts = tonumber(config[1] and (string.match(config[2] or '', '^%d+') or 1) or ARGV[10])

local function channel_start()
  if not channel.last then
    channel.last = tonumber(redis.call('GET', C .. ':limit') or 0)
    if channel.last > now + ahead + 1000000 then channel.last = 0 end
    channel.latest = latest_start(channel.name, 0, now)
  end
  local at = math.max(channel.last + gap + math.ceil(channel.latest / channel.starts), now)
  if at > now + ahead then return nil, at end
  return at
end

local function charge_channel(at)
  channel.last = at
  redis.call('SET', C .. ':limit', int(at), 'PX', 3600000)
  if channel.late == 0 then return end
  channel.latest = math.max(channel.latest, channel.late)
  note_late_start(channel, at)
end

-- The limit of a domain or recipient is a GCRA with `burst` free starts after a rest; jobs beyond it wait in its list.
-- Where the channel's limit spaces starts too, a start may be as late as that limit allows.
local job_limits = {}
local function job_limit(text)
  local name, own_gap, burst, starts, late, lane = string.match(text, '^(%S+) (%d+) (%d+) (%d+) (%d+) (%a)$')
  if not name then return nil end
  local o = job_limits[name]
  if not o then
    o = { name = name, gap = tonumber(own_gap), burst = tonumber(burst), starts = tonumber(starts) }
    o.late = gap > 0 and channel.late or tonumber(late)
    o.latest = o.burst == 1 and latest_start(name, o.late, now) or 0
    o.charged = limit_charged(name, o.gap, o.burst, now)
    o.first = tonumber(redis.call('ZRANGE', limit_list(name), 0, 0, 'WITHSCORES')[2])
    if o.first then set_limit_pace(name, own_gap .. ' ' .. burst, now) end
    job_limits[name] = o
  end
  return o, RANKS[lane]
end

-- A job stays behind waiting jobs of its own lane and of earlier lanes; a released job only behind those of earlier lanes.
local function is_behind(o, rank, released)
  if not o.first then return false end
  local waiting = math.floor(o.first / LANE_SPAN)
  return waiting < rank or (waiting == rank and not released)
end

-- With a burst, the limit counts from the latest time of the start: so a late start cannot come closer to the next one.
local function charge_limit(o, at)
  if o.burst > 1 then
    o.charged = math.max(o.charged, at + o.late) + o.gap
    return
  end
  o.charged = math.max(o.charged, at) + o.gap + math.ceil(o.latest / o.starts)
  if o.late > 0 then note_late_start(o, at) end
end

-- Check the job's own limit first, then the channel's; charge them only if both allow the start.
local function earliest(limit, released)
  local at, o, rank = now, nil, nil
  if limit ~= '' then o, rank = job_limit(limit) end
  if o then
    at = math.max(o.charged - (o.burst - 1) * o.gap, now)
    if at > now + ahead or is_behind(o, rank, released) then return nil, 'beyond', o end
  end
  if gap > 0 then
    local free, when = channel_start()
    if not free then return nil, 'limited' .. int(when - now - ahead) end
    at = math.max(at, free)
    charge_channel(at)
  end
  if o then
    charge_limit(o, at)
    redis.call('SET', C .. ':limit:' .. o.name, int(o.charged), 'PX', int(math.ceil((o.charged - now) / 1000) + 1000))
  end
  return at, gap > 0 and 's' or (o and 'o' or 'g')
end

-- A limit's list accepts a few seconds' worth of jobs from bulk blasts' own streams. A stream rests once MOST_IN_VAIN of
-- its jobs were put into full lists while none of its jobs was begun: jobs that are put into lists far ahead use up turns
-- and make a cancellation expensive. Before that, its jobs may hide others that could be begun.
local MOST_IN_VAIN = 50
local vain, resting = {}, {}
local function vain_in(stream)
  if not vain[stream] then
    vain[stream] = { n = tonumber(redis.call('HGET', C .. ':limits:runs', stream) or 0) }
    resting[stream] = redis.call('ZSCORE', C .. ':starts', stream) and 0 or nil
  end
  return vain[stream]
end

local function beyond(stream, o)
  if not bulk_blast(stream) then return 'beyond' end
  local most, run = math.min(math.max(20, math.ceil(3000000 / o.gap)), 1000), vain_in(stream)
  o.bulk = o.bulk or redis.call('ZCOUNT', limit_list(o.name), int(RANKS.b * LANE_SPAN), '+inf')
  if o.bulk < most and not resting[stream] then
    o.bulk = o.bulk + 1
    return 'beyond'
  end
  if run.n < MOST_IN_VAIN then
    run.n, run.changed = run.n + 1, true
    return 'beyond'
  end
  resting[stream] = math.min(math.max(100000, most * o.gap / 3), 10000000)
  return 'full'
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
  if policy ~= 'repeat' and stall and stall.run == run and stall.stalls + stall.uncertain > 0 then
    if stall.stalls >= poison then return 'poison' end
    if policy == 'hold' or stall.uncertain > 1 then return 'uncertain' end
  end
  if waits == 'x' then return 'uncertain' end
  if b.paused then return 'paused' end
  return nil
end

local rearmed = {}
local function decide(base)
  local stream, id, job_id, run = ARGV[base], ARGV[base + 1], ARGV[base + 2], tonumber(ARGV[base + 3])
  local limit, released = ARGV[base + 7], is_released(stream)
  if held then return 'held' end
  local blast = string.match(job_id, '^[^:]+')
  local stall = any_stall and stall_of(job_id) or nil
  local word = refusal(job_id, blast, run, tonumber(ARGV[base + 4]), ARGV[base + 5], stall, string.sub(ARGV[base + 6], 1, 1))
  if released and (word or limit == '') then rearmed[#rearmed + 1] = base end
  if word then return word end
  local alone = policy ~= 'repeat' and stall and stall.run == run and stall.stalls > 0
  if in_flight >= most_in_flight then return 'crowded' end
  if alone_granted or (alone and in_flight > 0) then return 'wait' end
  local at, how, o = earliest(limit, released)
  if not at then return how == 'beyond' and beyond(stream, o) or how end
  in_flight = in_flight + 1
  if vain[stream] or (any_run and bulk_blast(stream)) then
    local run_of = vain_in(stream)
    run_of.n, run_of.changed = 0, run_of.changed or run_of.n > 0
  end
  claims[stream] = claims[stream] or {}
  table.insert(claims[stream], id)
  count(blast, 'processing', 1)
  if string.sub(ARGV[base + 6], 1, 1) ~= 'q' then count(blast, 'retrying', -1) end
  events[#events + 1] = ARGV[base + 8]
  alone_granted = alone_granted or alone
  if how ~= 'g' then how = how .. int(math.max(0, at - now)) end
  return alone and string.upper(how) or how
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
  ids[#ids + 1] = 'JUSTID' -- in the table: `unpack` returns all its values only as the last argument
  redis.call('XCLAIM', stream, GROUP, tx, 0, unpack(ids))
end
for stream, run in pairs(vain) do
  if run.changed and run.n == 0 then redis.call('HDEL', C .. ':limits:runs', stream) end
  if run.changed and run.n > 0 then redis.call('HSET', C .. ':limits:runs', stream, run.n) end
  if resting[stream] and resting[stream] > 0 then serve_from(stream, now + resting[stream]) end
end
-- A released job that does not begin frees its start; a limit that was removed releases its list.
for _, base in ipairs(rearmed) do
  local name = string.match(ARGV[base + 7], '^%S+')
  if not name then
    local entry = redis.call('XRANGE', ARGV[base], ARGV[base + 1], ARGV[base + 1])[1]
    name = entry and entry[2][6]
  end
  if name and redis.call('HEXISTS', C .. ':limits', name) == 1 then
    if ARGV[base + 7] == '' then redis.call('HSET', C .. ':limits', name, '0 1') end
    index_limit(name, now, true)
  end
end
write_counts(now_ms, nil, events)
emit(ARGV[3], events)
return remember(sender, 'begin', sequence, table.concat(words, ','))
