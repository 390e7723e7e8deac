#!lua flags=allow-oom
-- Take up to `want` jobs that may be begun soon into `<sender>:buf`; if asked to, begin them in the same step.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS limits, starts, suppressions, begins
-- ARGV  1 sender · 2 want · 3 bytes of unwritten events at which nothing is taken: each job adds events, and scripts that
--       add them may not be refused · 4 µs that a start may be granted ahead · to begin what is taken:
--       5 … 16 as 1 … 12 of `begin` · 17 most bytes of snapshots to add (0 on a cluster, where a snapshot has a slot of its
--       own) · 18 "1" to take nothing and repeat the answer of the call with this sequence
-- Result  {reason of the channel's pause or "", ms until something is due (-1: nothing waits for a time),
--          "1" if too many events wait for the logger, else "0", the words of `begin` or "", {blast, snapshot, …} of those
--          begun here that have one message, stream, id, delivery count, packed job, …}
-- Order: `high` released by limits; `high` given back or due; `high` new. Then a quarter for other jobs that limits
-- release, and half of the rest for due retries (they must be on time, but must not take everything). The remainder goes
-- to `normal` and the ring, 4:1 while both have work; the ring serves one stream after another, and in each stream jobs
-- given back before new ones.
-- Limits with a free start are served in the order in which their starts became free, at most `want` of them.
-- A stream's turn lasts for at least 4 jobs. A stream with nothing to take leaves the ring; a script that adds something
-- puts it back.
-- It ends early after about two megabytes, and moves about as much of the jobs that have become due to their streams,
-- because Redis is blocked meanwhile; it always takes at least one job.
-- A crash before: nothing happened. A lost reply: the jobs are in `<sender>:buf`; `list_held` lists them.
-- Jobs are begun only if all that are taken are new, without a limit of their own, and legible here. Such a call has a
-- sequence, and after a lost reply its sender asks for its answer: from then on a late copy of the call does nothing.

local BEGINS, SEQUENCE = ARGV[5], ARGV[6]

-- Repeat the answer of a call, without the jobs that are gone: "<word>,… <stream> <id> <deliveries> …".
local function repeated(kept)
  local again, words_left, next_word = { '', -1, '0', '', {} }, {}, string.gmatch(string.match(kept, '^%S*'), '[^,]+')
  for stream, id, deliveries in string.gmatch(kept, ' (%S+) (%S+) (%d+)') do
    local entry, word, n = redis.call('XRANGE', stream, id, id)[1], next_word(), #again
    if entry then
      again[n + 1], again[n + 2], again[n + 3], again[n + 4] = stream, id, tonumber(deliveries), entry[2][2]
      words_left[#words_left + 1] = word
    end
  end
  again[4] = table.concat(words_left, ',')
  return again
end

if BEGINS then
  local kept = replayed(BEGINS, 'take', SEQUENCE)
  if kept then return type(kept) == 'table' and kept or repeated(kept) end
  if ARGV[18] == '1' then return repeated(remember(BEGINS, 'take', SEQUENCE, '')) end
end

local me, want, ahead = ARGV[1] .. ':buf', tonumber(ARGV[2]), tonumber(ARGV[4])
local paused = redis.call('GET', C .. ':paused')
if paused then return { paused, -1, '0', '', {} } end
if event_bytes() >= tonumber(ARGV[3]) then return { '', -1, '1', '', {} } end
local now = now_us()
local now_ms = math.floor(now / 1000)
local most_due = math.max(want, 100)
local out = { '', -1, '0', '', {} }
local MOST_STREAMS, TURN, MOST_BYTES = 16, 4, 2000000
-- Whether nothing waits for a time, a limit or a turn, as while single messages come: one call instead of a dozen. A fetch
-- adds nothing there unless something is there.
local WAITING = { C .. ':parked', C .. ':later', C .. ':starts', C .. ':ring', C .. ':limits:high', C .. ':limits:due' }
local quiet = redis.call('EXISTS', unpack(WAITING)) == 0

-- How many jobs to take in one step: their sizes are known only once they are taken, so a few at first.
local bytes, jobs = 0, 0
local function step(n)
  if bytes == 0 then return math.min(n, 2) end
  return math.max(0, math.min(n, 4 * jobs, math.ceil((MOST_BYTES - bytes) * jobs / bytes)))
end

local function add(stream, entries, counts)
  if #entries > 0 then note_held(ARGV[1], stream) end
  for _, entry in ipairs(entries) do
    local n = #out
    bytes, jobs = bytes + #entry[2][2], jobs + 1
    out[n + 1], out[n + 2], out[n + 3], out[n + 4] = stream, entry[1], counts and counts[entry[1]] or 1, entry[2][2]
  end
  return #entries
end

-- Take entries that were given back. Claiming counts a delivery, and drops pending entries that are not in the stream.
local function take_some_back(stream, n)
  local rows = redis.pcall('XPENDING', stream, GROUP, '-', '+', n, '~back')
  if rows.err or #rows == 0 then return 0, false end
  local ids, counts = {}, {}
  for i, row in ipairs(rows) do
    ids[i] = row[1]
    counts[row[1]] = row[4] + 1
  end
  return add(stream, redis.call('XCLAIM', stream, GROUP, me, 0, unpack(ids)), counts), #rows == n
end

local function take_some_new(stream, n)
  local got = redis.pcall('XREADGROUP', 'GROUP', GROUP, me, 'COUNT', n, 'STREAMS', stream, '>')
  if type(got) == 'table' and got.err then
    if not string.find(got.err, 'NOGROUP', 1, true) then error(got.err) end
    make_group(stream)
    got = redis.call('XREADGROUP', 'GROUP', GROUP, me, 'COUNT', n, 'STREAMS', stream, '>')
  end
  if not got then return 0 end
  return add(stream, got[1][2])
end

local function take_back(stream, n)
  local taken, more = 0, true
  while more and taken < n and step(n - taken) > 0 do
    local some
    some, more = take_some_back(stream, step(n - taken))
    taken = taken + some
  end
  return taken, more
end

local function take_new(stream, n)
  local taken = 0
  while taken < n and step(n - taken) > 0 do
    local wanted = step(n - taken)
    local some = take_some_new(stream, wanted)
    taken = taken + some
    if some < wanted then break end
  end
  return taken
end

-- Returns how many were taken, and whether there may be more. Most streams are empty, and reading them costs more than this.
local function take(stream, n)
  if n <= 0 then return 0, true end
  if redis.call('XLEN', stream) == 0 then return 0, false end
  local taken, more = take_back(stream, n)
  if taken < n then taken = taken + take_new(stream, n - taken) end
  return taken, more or taken == n or step(1) == 0
end

-- Parked entries that are due: those of `high` move to `~back`, to be taken first of all; the others are taken from their
-- place, because the next turn of their stream may be far away.
local due_now = {}
local function find_due()
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', C .. ':parked', '-inf', int(now), 'LIMIT', 0, most_due)) do
    local stream, id = string.match(member, '^(%S+) (%S+)$')
    local consumer, attempts = holder(stream, id)
    if consumer ~= '~retry' then
      unpark(stream, id)
    elseif stream == C .. ':jobs:high' or stream == RELEASED_HIGH then
      unpark(stream, id)
      give_back(stream, id, attempts)
    else
      due_now[#due_now + 1] = { stream, id, attempts + 1 }
    end
  end
end

local next_due = 1
local function take_due(n)
  local taken = 0
  while taken < n and next_due <= #due_now and step(1) > 0 do
    local stream, id, deliveries = unpack(due_now[next_due])
    next_due = next_due + 1
    unpark(stream, id)
    taken = taken + add(stream, redis.call('XCLAIM', stream, GROUP, me, 0, id), { [id] = deliveries })
  end
  return taken
end

-- Move jobs whose time has come to a stream: scheduled ones to their lane, deferred ones to `due`, all jobs of `high` to
-- `high`.
local function promote_due()
  local due = redis.call('ZRANGEBYSCORE', C .. ':later', '-inf', int(now), 'LIMIT', 0, most_due)
  local moved = 0
  for _, job_id in ipairs(due) do
    if moved > MOST_BYTES then return end
    local kind, lane, raw = take_later(job_id, now)
    if kind then
      moved = moved + #raw
      local stream = C .. ':jobs:due'
      if lane == 'h' then
        stream = C .. ':jobs:high'
      elseif kind == 's' and lane == 'n' then
        stream = C .. ':jobs:normal'
      end
      local blast = string.match(job_id, '^[^:]+')
      if kind == 's' then
        count(blast, 'scheduled', -1)
        gauge('later_scheduled', -1)
      else
        note_move(blast)
      end
      note_place(job_id, stream, redis.call('XADD', stream, '*', 'd', raw))
      serve(stream)
    end
  end
end

-- The jobs of a scheduled blast with its own stream are queued from its start on.
local function start_scheduled(blast)
  local key = C .. ':blast:' .. blast
  if redis.call('HDEL', key, 'scheduled_whole') == 0 then return end
  local waiting = tonumber(redis.call('HGET', key, 'scheduled') or 0)
  if waiting > 0 then count(blast, 'scheduled', -waiting) end
end

-- Streams whose turns begin now: scheduled blasts, and those that rested.
local function start_due()
  for _, stream in ipairs(redis.call('ZRANGEBYSCORE', C .. ':starts', '-inf', int(now), 'LIMIT', 0, most_due)) do
    redis.call('ZREM', C .. ':starts', stream)
    if bulk_blast(stream) then start_scheduled(bulk_blast(stream)) end
    serve(stream)
  end
end

-- Return false for a stream whose time has not come: an earlier version put it into the ring.
local function is_started(stream)
  local blast = bulk_blast(stream)
  if not blast then return true end
  local v = redis.call('HMGET', C .. ':blast:' .. blast, 'scheduled_whole', 'scheduled_at', 'cancelled_at')
  if not v[1] then return true end
  local starts_at = tonumber(v[2] or 0) * 1000
  if starts_at > now and not v[3] then
    serve_from(stream, starts_at)
    return false
  end
  start_scheduled(blast)
  return true
end

-- A turn lasts for some jobs, if necessary over several fetches, so that a sender uses one template after another.
local function end_turn(stream, got, more, place)
  if not more then
    redis.call('ZREM', C .. ':ring', stream)
    redis.call('HDEL', C .. ':turns', stream)
    if got == 0 then drop_if_empty(stream) end
  elseif redis.call('HINCRBY', C .. ':turns', stream, got) >= TURN then
    redis.call('HDEL', C .. ':turns', stream)
    redis.call('ZADD', C .. ':ring', int(place), stream)
  end
end

local function take_ring(n)
  if n <= 0 or quiet then return 0 end
  local taken, place = 0, last_place()
  local streams = redis.call('ZRANGE', C .. ':ring', 0, MOST_STREAMS - 1)
  for i, stream in ipairs(streams) do
    if taken >= n then break end
    if is_started(stream) then
      local left_of_turn = TURN - tonumber(redis.call('HGET', C .. ':turns', stream) or 0)
      local share = math.max(left_of_turn, math.ceil((n - taken) / (#streams - i + 1)))
      local got, more = take(stream, math.min(share, n - taken))
      taken = taken + got
      end_turn(stream, got, more, place + i)
    end
  end
  return taken
end

-- Jobs of cancelled and paused blasts are released without using a free start, because `begin` refuses them.
local unstartable = {}
local function may_start(job_id)
  local blast = string.match(job_id, '^[^:]+')
  if unstartable[blast] == nil then
    local v = redis.call('HMGET', C .. ':blast:' .. blast, 'cancelled_at', 'paused')
    unstartable[blast] = (v[1] or v[2]) and true or false
  end
  return not unstartable[blast]
end

-- Release jobs of these lanes from a limit's list while starts are free; return how many. The next start is recorded as if
-- these jobs were begun, so that other senders do not release as many again; only `begin` charges the limit.
local released_bytes = 0
local function release_from(name, noted, stream, below, most)
  local gap, burst = limit_pace(name)
  local charged = math.max(limit_charged(name, gap, burst, now), noted + (burst - 1) * gap, now)
  local free, released = math.floor((now + ahead + (burst - 1) * gap - charged) / math.max(gap, 1)) + 1, 0
  if free > 0 then
    local first = redis.call('ZRANGEBYSCORE', limit_list(name), '-inf', '(' .. int(below), 'WITHSCORES', 'LIMIT', 0, math.min(free, most))
    for i = 1, #first, 2 do
      if released_bytes >= MOST_BYTES then break end
      local job_id = first[i]
      redis.call('ZREM', limit_list(name), job_id)
      local kept = redis.call('HGET', C .. ':later:jobs', job_id)
      if kept then
        local _, _, raw = read_later(kept)
        redis.call('HDEL', C .. ':later:jobs', job_id)
        count_limited(job_id, -1)
        note_place(job_id, stream, redis.call('XADD', stream, '*', 'd', raw, 'place', first[i + 1], 'limit', name))
        released, released_bytes = released + 1, released_bytes + #raw
        if may_start(job_id) then charged = charged + gap end
      end
    end
    index_limit(name, now)
  end
  for _, index in ipairs({ C .. ':limits:high', C .. ':limits:due' }) do
    redis.call('ZADD', index, 'XX', int(charged - (burst - 1) * gap), name)
  end
  return released
end

-- Take jobs that were released before and then given back or left for their size, then those of `index`'s limits with a
-- free start.
local any_list = not quiet and redis.call('EXISTS', C .. ':limits:high', C .. ':limits:due') > 0
local function take_released(index, stream, below, n)
  if n <= 0 then return 0 end
  local taken, released = take(stream, n), 0
  if not any_list then return taken end
  local due = redis.call('ZRANGEBYSCORE', index, '-inf', int(now + ahead), 'WITHSCORES', 'LIMIT', 0, n - taken)
  for i = 1, #due, 2 do
    local wanted = n - taken - released
    if wanted <= 0 or step(1) == 0 then break end
    released = released + release_from(due[i], tonumber(due[i + 1]), stream, below, wanted)
  end
  if released > 0 then taken = taken + take_new(stream, released) end
  return taken
end

local function ms_until_due()
  local next_at
  if quiet then return -1 end
  if redis.call('EXISTS', C .. ':ring') == 1 then return 0 end
  local early = { [C .. ':limits:high'] = ahead, [C .. ':limits:due'] = ahead }
  local keys = { C .. ':parked', C .. ':later', C .. ':starts' }
  if any_list then keys[4], keys[5] = C .. ':limits:high', C .. ':limits:due' end
  for _, key in ipairs(keys) do
    local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    local at = first[2] and tonumber(first[2]) - (early[key] or 0)
    if at and (not next_at or at < next_at) then next_at = at end
  end
  if not next_at then return -1 end
  return math.max(0, math.ceil((next_at - now) / 1000))
end

if not quiet then
  find_due()
  promote_due()
  start_due()
end
local left = want - take_released(C .. ':limits:high', RELEASED_HIGH, LANE_SPAN, want)
left = left - take(C .. ':jobs:high', left)
if left > 0 then
  local turn = tonumber(redis.call('GET', C .. ':turn') or 0)
  local before = left
  left = left - take_released(C .. ':limits:due', RELEASED, 9 * LANE_SPAN, math.floor((turn + left) / 4) - math.floor(turn / 4))
  left = left - take_due(math.floor((turn + left) / 2) - math.floor(turn / 2))
  local for_ring = math.floor((turn + left) / 5) - math.floor(turn / 5)
  local share = left - for_ring
  local normal = take(C .. ':jobs:normal', share)
  local ringed = take_ring(left - normal)
  left = left - normal - ringed
  -- also if its share of this turn was zero: otherwise a sender that takes one job at a time would never get any
  if left > 0 and normal == share then left = left - take(C .. ':jobs:normal', left) end
  if left > 0 then left = left - take_due(left) end
  if left > 0 then left = left - take_released(C .. ':limits:due', RELEASED, 9 * LANE_SPAN, left) end
  if before > left then redis.call('SET', C .. ':turn', int((turn + before - left) % 1000000)) end
end

-- Add what `begin` is told about a job that was just taken: that it is new, has no limit of its own, and is legible; return
-- false if it is not. The address is that of a mailbox in ASCII, whose identity is in lower case.
local shared_last, jobs_at
local function add_new(given, at)
  local stream, id, deliveries, raw = out[at], out[at + 1], out[at + 2], out[at + 3]
  local job = deliveries == 1 and is_untried(raw) and not is_released(stream) and read_job(raw)
  local address = job and job[5][1]
  if type(address) ~= 'string' or not string.find(address, '@', 1, true) or string.find(address, '[\128-\255]') then return false end
  local job_id, run = read_id(raw), tonumber(job[8])
  local blast = job_id and string.match(job_id, '^([^:]+):%d+:[^:]+$')
  if not blast or not run or not tonumber(job[7]) then return false end
  local shared = stream .. ' ' .. blast .. ' ' .. int(run) .. ' ' .. int(job[7])
  if shared ~= shared_last then
    for _, field in ipairs({ stream, blast, int(run), int(job[7]), 'q1', '', 1, 0 }) do given[#given + 1] = field end
    shared_last, jobs_at = shared, #given
  end
  local n = #given
  given[n + 1], given[n + 2], given[n + 3] = id, job_id, (job[12] and 'm' or 't') .. string.lower(address)
  given[jobs_at] = given[jobs_at] + 1
  return true
end

-- Add the snapshots of blasts of one message, as far as there is room: a new job's sender cannot have such a one, and would
-- ask for it before it could render. One of a larger blast is needed once, and the sender may have it.
local function add_snapshots()
  local room, found = tonumber(ARGV[17]), out[5]
  if room == 0 then return end
  for blast, state in pairs(known_blasts) do
    local key = 'blast:' .. blast
    local bytes = state[1] == '1' and redis.pcall('MEMORY', 'USAGE', key)
    local snapshot = type(bytes) == 'number' and bytes <= room and redis.call('HGET', key, 'snapshot')
    if snapshot then
      room = room - bytes
      found[#found + 1], found[#found + 2] = blast, snapshot
    end
  end
end

-- Begin the jobs that were taken, if all of them are new.
local function begin_taken()
  local given, places, fine = {}, {}, jobs > 0
  for i = 5, 16 do given[#given + 1] = ARGV[i] end
  for at = 6, #out, 4 do
    places[#places + 1] = out[at] .. ' ' .. out[at + 1] .. ' ' .. out[at + 2]
    fine = fine and add_new(given, at)
  end
  local answer, events = {}, {}
  if fine then
    answer, events = begin_jobs(given, now)
    add_snapshots()
  end
  out[4] = table.concat(answer, ',')
  if jobs > 0 then remember(BEGINS, 'take', SEQUENCE, out[4] .. ' ' .. table.concat(places, ' ')) end
  return events
end

local events = BEGINS and begin_taken() or {}
write_counts(now_ms, nil, events)
if #events > 0 then emit(ARGV[7], events) end
out[2] = (jobs < want and step(1) == 0) and 0 or ms_until_due()
return out
