-- Beginning jobs: moving them from a sender's `:buf` to its `:tx`. `begin` does this for jobs that its sender has read; `fetch`
-- does it in the same step for new ones, if it is asked to. `args` are those of `begin`: jobs in runs, of which each begins
-- with the fields that its jobs share.
local BEGIN_FROM, SHARED, OWN = 13, 8, 3
local args, buf, tx, policy, poison, most_in_flight, in_flight, held, begin_ms
local any_stall, any_suppressed, any_cancel, any_run
local blasts, claims, words = {}, {}, {}
local alone_granted = false

local function blast_state(blast)
  local b = blasts[blast]
  if not b then
    local v = redis.call('HMGET', C .. ':blast:' .. blast, 'total', 'paused', 'cancelled_at')
    b = { cancelled = v[3], paused = v[2] }
    blasts[blast], known_blasts[blast] = b, v
  end
  return b
end

-- Where the channel's queue has several partitions, all of them share its limits, and `grant` was asked before: the text of
-- a job's limit then follows "=<word of grant> ". Return the start, or nil, as `earliest` does. The partition keeps a copy
-- of when its limit's next start is free, by which `fetch` releases jobs from its list; any job may be released too early.
local function asked_before(text)
  local word, free, limit = string.match(text, '^=(%a+%d*)/?(%d*) (.*)$')
  local name, own_gap, burst = string.match(limit, '^(%S+) (%d+) (%d+) ')
  local o = name and { name = name, gap = tonumber(own_gap), burst = tonumber(burst) }
  if o then
    local charged = now + tonumber(free) + (o.burst - 1) * o.gap
    redis.call('SET', C .. ':limit:' .. name, int(charged), 'PX', int(math.ceil((charged - now) / 1000) + 1000))
    if redis.call('EXISTS', limit_list(name)) == 1 then set_limit_pace(name, own_gap .. ' ' .. burst, now) end
  end
  local how, us = string.match(word, '^(%a+)(%d*)$')
  if how == 'limited' then return nil, word end
  if how == 'beyond' then return nil, how, o end
  return now + (tonumber(us) or 0), how
end

-- A job without a limit of its own whose sender has not asked the limits: it begins if the partition knows that the channel
-- has no rate.
local UNASKED = '?'

local function limit_text(text)
  if text == UNASKED then return '' end
  return string.byte(text) == 61 and string.match(text, ' (.*)$') or text
end

local function start_of(text, limit, released)
  if text == UNASKED then
    if has_permit then return now, 'g' end
    return nil, 'ask'
  end
  if text == limit then return earliest(limit, released) end
  return asked_before(text)
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

-- Return what the jobs of the run at a place share, and the places of the first and last of them.
local function read_run(at)
  local stream, counted, text = args[at], args[at + 4], args[at + 5]
  return {
    stream = stream, blast = args[at + 1], run = tonumber(args[at + 2]), expires = tonumber(args[at + 3]),
    waits = string.sub(counted, 1, 1), deliveries = tonumber(string.sub(counted, 2)), text = text, limit = limit_text(text),
    released = is_released(stream), attempt = tonumber(args[at + 6]), begun = {},
    first = at + SHARED, last = at + SHARED + (tonumber(args[at + 7]) - 1) * OWN,
  }
end

local function refusal(r, job_id, address, stall)
  local b, run = blast_state(r.blast), r.run
  if stall and stall.outcome == 'sent' and stall.run == run then return 'sent' end
  if b.cancelled or (any_cancel and redis.call('HEXISTS', C .. ':cancels', job_id) == 1) then return 'cancelled' end
  if r.expires > 0 and begin_ms >= r.expires then return 'expired' end
  if any_suppressed then
    local stored = redis.call('HGET', C .. ':suppressed', string.sub(address, 2))
    for _, one in ipairs(stored and suppressions_of(stored) or {}) do
      if holds(one, begin_ms) and (one[1] == 'all' or string.sub(address, 1, 1) == 'm') then return 'suppressed' end
    end
  end
  if policy ~= 'repeat' and stall and stall.run == run and stall.stalls + stall.uncertain > 0 then
    if stall.stalls >= poison then return 'poison' end
    if policy == 'hold' or stall.uncertain > 1 then return 'uncertain' end
  end
  if r.waits == 'x' then return 'uncertain' end
  if b.paused then return 'paused' end
  return nil
end

local rearmed = {}
local function decide(r, base)
  if held then return 'held' end
  local stream, blast, run, id, job_id = r.stream, r.blast, r.run, args[base], args[base + 1]
  local stall = any_stall and stall_of(job_id) or nil
  local word = refusal(r, job_id, args[base + 2], stall)
  if r.released and (word or r.limit == '') then rearmed[#rearmed + 1] = { run = r, id = id } end
  if word then return word end
  local alone = policy ~= 'repeat' and stall and stall.run == run and stall.stalls > 0
  if in_flight >= most_in_flight then return 'crowded' end
  if alone_granted or (alone and in_flight > 0) then return 'wait' end
  local at, how, o = start_of(r.text, r.limit, r.released)
  if not at then return how == 'beyond' and beyond(stream, o) or how end
  in_flight = in_flight + 1
  if vain[stream] or (any_run and bulk_blast(stream)) then
    local run_of = vain_in(stream)
    run_of.n, run_of.changed = 0, run_of.changed or run_of.n > 0
  end
  claims[stream] = claims[stream] or {}
  table.insert(claims[stream], id)
  count(blast, 'processing', 1)
  if r.waits ~= 'q' then count(blast, 'retrying', -1) end
  r.begun[#r.begun + 1] = job_id
  alone_granted = alone_granted or alone
  if how ~= 'g' then how = how .. int(math.max(0, at - now)) end
  return alone and string.upper(how) or how
end

-- What is there of the records that concern few jobs: one call instead of four while nothing is.
local RARE = { C .. ':stalls', C .. ':suppressed', C .. ':cancels', C .. ':limits:runs' }
local function find_rare()
  local n = redis.call('EXISTS', unpack(RARE))
  local there = {}
  for i, key in ipairs(RARE) do there[i] = n == #RARE or (n > 0 and redis.call('EXISTS', key) == 1) end
  any_stall, any_suppressed, any_cancel, any_run = unpack(there)
end

local function read_begin(given, at_us)
  args, begin_ms = given, math.floor(at_us / 1000)
  policy, poison, most_in_flight, in_flight = args[6], tonumber(args[7]), tonumber(args[8]), tonumber(args[9])
  buf, tx = args[1] .. ':buf', args[1] .. ':tx'
  held = redis.call('GET', C .. ':paused') or redis.call('EXISTS', C .. ':sender:' .. args[1]) == 0
  find_rare()
  allow_starts(at_us, tonumber(args[5]), tonumber(args[4]), tonumber(args[10]), tonumber(args[11]))
end

local function decide_all()
  local runs, asked, mine, at = {}, {}, {}, BEGIN_FROM
  while args[at] do
    local r = read_run(at)
    local ids = asked[r.stream] or {}
    for base = r.first, r.last, OWN do ids[#ids + 1] = args[base] end
    runs[#runs + 1], asked[r.stream] = r, ids
    at = r.last + OWN
  end
  for stream, ids in pairs(asked) do mine[stream] = owned(stream, buf, ids) end

  for _, r in ipairs(runs) do
    local mine_here = mine[r.stream]
    for base = r.first, r.last, OWN do
      words[#words + 1] = mine_here[args[base]] == r.deliveries and decide(r, base) or 'lost'
    end
  end
  return runs
end

-- Return an event for the jobs of each run that were begun; no id of a job contains a space.
local function begun_events(runs)
  local events, at_ms = {}, tonumber(args[12])
  for _, r in ipairs(runs) do
    if r.begun[1] then
      local jobs = table.concat(r.begun, ' ')
      events[#events + 1] = cmsgpack.pack({ 'begun', at_ms, r.run, r.attempt, args[1], jobs })
    end
  end
  return events
end

local function claim_all()
  for stream, ids in pairs(claims) do
    ids[#ids + 1] = 'JUSTID' -- in the table: `unpack` returns all its values only as the last argument
    redis.call('XCLAIM', stream, GROUP, tx, 0, unpack(ids))
  end
end

local function note_runs()
  for stream, run in pairs(vain) do
    if run.changed and run.n == 0 then redis.call('HDEL', C .. ':limits:runs', stream) end
    if run.changed and run.n > 0 then redis.call('HSET', C .. ':limits:runs', stream, run.n) end
    if resting[stream] and resting[stream] > 0 then serve_from(stream, now + resting[stream]) end
  end
end

-- A released job that does not begin frees its start; a limit that was removed releases its list.
local function rearm_limits()
  for _, one in ipairs(rearmed) do
    local given = string.match(one.run.limit, '^%S+')
    local name = given
    if not name then
      local entry = redis.call('XRANGE', one.run.stream, one.id, one.id)[1]
      name = entry and entry[2][6]
    end
    if name and redis.call('HEXISTS', C .. ':limits', name) == 1 then
      if not given then redis.call('HSET', C .. ':limits', name, '0 1') end
      index_limit(name, now, true)
    end
  end
end

-- Begin the jobs of `given`; return a word for each, and the events. The caller writes the counts.
local function begin_jobs(given, at_us)
  read_begin(given, at_us)
  local runs = decide_all()
  claim_all()
  note_runs()
  rearm_limits()
  return words, begun_events(runs)
end
