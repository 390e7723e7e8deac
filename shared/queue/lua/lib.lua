-- Functions that all scripts share; inserted after the shebang line of each.
-- KEYS[1] is the partition's stream of wake-ups, which exists. All other keys are derived from its hash tag, so they are in
-- one slot. KEYS[2] never exists. While a cluster moves the slot to another node, both nodes answer TRYAGAIN to a call with
-- two keys of which one is missing, before anything is done. A call with one key would run on the keys that a node has.
-- `create_group`, `ack_events` and the scripts of receipts are called only with streams, and derive no keys.

local C = string.sub(KEYS[1], 1, -#':bell' - 1)
local GROUP = 'senders'
local ONCE_MS = 3600000
local TERMINAL = { 'sent', 'failed', 'cancelled', 'expired', 'suppressed' }

local function now_us()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end

local function int(value)
  return string.format('%.0f', value)
end

-- Return the fields of a job, nil if this server cannot read them: the bytes are not a job, or contain values that its
-- msgpack does not support, such as the files inside jobs of an earlier version. Later versions add fields at the end.
local function read_job(raw)
  local fine, job = pcall(cmsgpack.unpack, raw)
  if fine and type(job) == 'table' and type(job[1]) == 'string' and type(job[5]) == 'table' and job[10] then return job end
  return nil
end

-- Return the id and blast of a job from its first three fields, which every version and server can read; nil if the bytes
-- are not a job.
local function read_id(raw)
  local first = string.byte(raw) or 0
  local from = first == 0xdc and 3 or (first >= 0x93 and first <= 0x9f) and 1 or nil
  if not from then return nil end
  local fine, _, blast, index, channel = pcall(cmsgpack.unpack_limit, raw, 3, from)
  if not fine or type(blast) ~= 'string' or type(index) ~= 'number' or type(channel) ~= 'string' then return nil end
  return blast .. ':' .. int(index) .. ':' .. channel, blast
end

-- Return whether a job waits as it was enqueued: an array of 13 that ends with no attempts, no deferrals, no time of a first
-- deferral, marketing or not, and an empty last field. Reading a job takes longer than most of what is done with it, so
-- scripts that read thousands use its first and last bytes. If a time of a first deferral ends in three zero bytes, the byte
-- 0xcf precedes its eight.
local UNTRIED = { ['\0\0\0\194\0'] = true, ['\0\0\0\195\0'] = true }
local function is_untried(raw)
  return UNTRIED[string.sub(raw, -5)] and string.byte(raw) == 0x9d and string.byte(raw, -11) ~= 0xcf
end

-- Return the stored answer of a repeated call, whose reply was lost. Callers send one call per step at a time, with rising
-- numbers. A copy that arrives after later calls (it was delayed in a dead connection) does nothing. A call with number 0 or
-- -1 is not remembered: it is made in place of the producer (see `settle`).
local function replayed(producer, step, sequence)
  if tonumber(sequence) <= 0 then return nil end
  local kept = redis.call('HGET', C .. ':once:' .. producer, step)
  if not kept then return nil end
  local at = string.find(kept, ' ', 1, true)
  local last = string.sub(kept, 1, at - 1)
  if last == sequence then return string.sub(kept, at + 1) end
  if tonumber(sequence) < tonumber(last) then return redis.error_reply('STALE call ' .. sequence .. ' after ' .. last) end
  return nil
end

-- Keep a call's answer. The record lasts for an hour after the producer's first call; its heartbeats prolong that.
local function remember(producer, step, sequence, reply)
  if tonumber(sequence) <= 0 then return reply end
  local key = C .. ':once:' .. producer
  if redis.call('HSET', key, step, sequence .. ' ' .. reply) == 1 then redis.call('PEXPIRE', key, ONCE_MS) end
  return reply
end

-- A batch is [producer, sequence, [event …]]; `head` is the packed start, events are packed one by one.
local function emit(head, events)
  local n = #events
  if n == 0 then return end
  local header
  if n < 16 then
    header = string.char(0x90 + n)
  elseif n < 65536 then
    header = string.char(0xdc, math.floor(n / 256), n % 256)
  else
    error('a batch of more than 65535 events')
  end
  redis.call('XADD', C .. ':events', '*', 'd', head .. header .. table.concat(events))
end

-- Return the name of the partition's channel, which the tag has without the number of the partition.
local function channel_name()
  return string.match(C, '^{([^.}]*)')
end

-- Pause the channel, and emit an event unless it was paused already: many senders may stop a channel, each with its words.
-- Without a head there is no event: another partition of the channel emits it.
local function pause_channel(reason, head)
  local key = C .. ':paused'
  local was = redis.call('EXISTS', key) == 1
  redis.call('SET', key, reason)
  if was or head == '' then return end
  emit(head, { cmsgpack.pack({ 'channel_changed', math.floor(now_us() / 1000), channel_name(), 'paused', reason }) })
end

-- Return roughly how many bytes the unwritten events take; 0 while they are few, or if the server does not report it.
local function event_bytes()
  local key = C .. ':events'
  if redis.call('XLEN', key) < 64 then return 0 end
  local bytes = redis.pcall('MEMORY', 'USAGE', key)
  return type(bytes) == 'number' and bytes or 0
end

local function wake_senders()
  redis.call('XADD', C .. ':bell', 'MAXLEN', '1', '*', 'd', '')
end

-- For scripts that may be the first to write to a partition: from then on its first key exists.
local function make_wake_stream()
  if redis.call('EXISTS', KEYS[1]) == 0 then wake_senders() end
end

local function make_group(stream)
  local made = redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
  if type(made) == 'table' and made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then
    error(made.err)
  end
end

local function bulk_blast(stream)
  local prefix = C .. ':jobs:bulk:'
  if string.sub(stream, 1, #prefix) == prefix then return string.sub(stream, #prefix + 1) end
  return nil
end

local function is_ringed(stream)
  return bulk_blast(stream) or stream == C .. ':jobs:due'
end

-- Delete a blast's own stream, with its consumers, when it has no entries left.
local function drop_if_empty(stream)
  local blast = bulk_blast(stream)
  if not blast then return end
  if redis.call('XLEN', stream) == 0 then
    redis.call('DEL', stream, C .. ':chunks:' .. blast)
    redis.call('ZREM', C .. ':ring', stream)
    redis.call('ZREM', C .. ':starts', stream)
    for _, index in ipairs({ ':turns', ':limits:runs' }) do redis.call('HDEL', C .. index, stream) end
    redis.call('SREM', C .. ':streams', blast)
  end
end

-- Return the place after the last stream of the ring. Scores are turns, not times: a clock that is set back changes nothing.
local function last_place()
  local last = redis.call('ZRANGE', C .. ':ring', -1, -1, 'WITHSCORES')
  return (last[2] and tonumber(last[2]) or 0) + 1
end

local function is_held(stream)
  local blast = bulk_blast(stream)
  return blast and redis.call('HEXISTS', C .. ':blast:' .. blast, 'paused') == 1
end

-- Give a stream turns in the ring, unless its blast is paused. A stream in the ring keeps its place, and one that starts
-- later keeps its time.
local function serve(stream)
  if not is_ringed(stream) or is_held(stream) or redis.call('ZSCORE', C .. ':starts', stream) then return end
  redis.call('ZADD', C .. ':ring', 'NX', int(last_place()), stream)
end

-- Let a stream's turns begin at a later time. A time that is already set stays.
local function serve_from(stream, at_us)
  if is_held(stream) then return end
  redis.call('ZREM', C .. ':ring', stream)
  redis.call('ZADD', C .. ':starts', 'NX', int(at_us), stream)
end

-- Return whether an entry's id is less than another's: by the time in ms, of 13 digits, then by the number after it.
local function id_before(a, b)
  if #a == #b then return a < b end
  local ms_a, ms_b = string.sub(a, 1, 13), string.sub(b, 1, 13)
  if ms_a ~= ms_b then return ms_a < ms_b end
  return #a < #b
end

-- The bulk streams in which a sender may hold something, besides the shared lanes, so that no call walks over all streams.
-- The key exists from the first heartbeat on. A sender of an earlier version has none, so every stream is checked for it.
local RELEASED, RELEASED_HIGH = C .. ':jobs:released', C .. ':jobs:high:released'
local SHARED_STREAMS = { C .. ':jobs:high', C .. ':jobs:normal', C .. ':jobs:due', RELEASED_HIGH, RELEASED }

local function held_key(sender)
  return C .. ':held:' .. sender
end

local function note_held(sender, stream)
  local blast = bulk_blast(stream)
  if blast then redis.call('SADD', held_key(sender), blast) end
end

-- Return up to `most` streams in which a sender may hold something, and the cursor of the next page ("0": the last).
local function held_streams(sender, cursor, most)
  local streams = {}
  if cursor == '0' then
    for i = 1, #SHARED_STREAMS do streams[i] = SHARED_STREAMS[i] end
  end
  local key = redis.call('EXISTS', held_key(sender)) == 1 and held_key(sender) or C .. ':streams'
  local page = redis.call('SSCAN', key, cursor, 'COUNT', most)
  for _, blast in ipairs(page[2]) do
    if blast ~= '' then streams[#streams + 1] = C .. ':jobs:bulk:' .. blast end
  end
  return streams, page[1]
end

local function first_pending(stream, consumer)
  local rows = redis.pcall('XPENDING', stream, GROUP, '-', '+', 1, consumer)
  return not rows.err and rows[1] or nil
end

-- Forget a stream in which a sender holds nothing, with its consumers; return false if it holds something there.
local function forget_held(sender, stream)
  for _, kind in ipairs({ ':buf', ':tx' }) do
    if first_pending(stream, sender .. kind) then return false end
  end
  for _, kind in ipairs({ ':buf', ':tx' }) do redis.pcall('XGROUP', 'DELCONSUMER', stream, GROUP, sender .. kind) end
  local blast = bulk_blast(stream)
  if blast then redis.call('SREM', held_key(sender), blast) end
  return true
end

-- Return which of these entries are pending for a consumer: id -> delivery count. They are close together, so one read from
-- the least to the greatest finds most of them; the others are read one by one.
local function owned(stream, consumer, ids)
  local found, n = {}, #ids
  local least, greatest = ids[1], ids[1]
  for i = 2, n do
    local id = ids[i]
    if id_before(id, least) then least = id elseif id_before(greatest, id) then greatest = id end
  end
  local rows = redis.pcall('XPENDING', stream, GROUP, least, greatest, n + 32, consumer)
  if rows.err then return found end
  for i = 1, #rows do
    local row = rows[i]
    found[row[1]] = row[4]
  end
  for i = 1, n do
    local id = ids[i]
    if not found[id] then
      local one = redis.call('XPENDING', stream, GROUP, id, id, 1, consumer)[1]
      if one then found[id] = one[4] end
    end
  end
  return found
end

-- Return the consumer that holds an entry, and its delivery count; nil if it is not pending.
local function holder(stream, id)
  local rows = redis.pcall('XPENDING', stream, GROUP, id, id, 1)
  if rows.err or #rows == 0 then return nil end
  return rows[1][2], rows[1][4]
end

-- Give an entry back to `~back`; `attempts` are those made so far.
local function give_back(stream, id, attempts)
  redis.call('XCLAIM', stream, GROUP, '~back', 0, id, 'RETRYCOUNT', attempts, 'JUSTID')
end

-- Park an entry at `~retry` until a further attempt, backdated so that it has been idle for V when it is due. `parked`
-- has the time, so that no script needs to search the pending list.
local function park(stream, id, delay_ms, attempts, park_ms, at_us)
  redis.call('XCLAIM', stream, GROUP, '~retry', 0, id, 'IDLE', int(math.max(park_ms - delay_ms, 0)), 'RETRYCOUNT', attempts, 'JUSTID')
  redis.call('ZADD', C .. ':parked', int(at_us + delay_ms * 1000), stream .. ' ' .. id)
end

local function unpark(stream, id)
  redis.call('ZREM', C .. ':parked', stream .. ' ' .. id)
end

-- Changes to counts, collected per blast and written once. Statuses in `GAUGED` have a gauge of the channel as well.
local deltas, channel_deltas, gauge_deltas, known_blasts = {}, {}, {}, {} -- the last: {total, pause}, read and not changed
local GAUGED = { processing = true, retrying = true, scheduled = true }

local function count(blast, status, by)
  local d = deltas[blast]
  if not d then
    d = {}
    deltas[blast] = d
  end
  d[status] = (d[status] or 0) + by
  if GAUGED[status] then gauge_deltas[status] = (gauge_deltas[status] or 0) + by end
end

local function count_channel(name, by)
  channel_deltas[name] = (channel_deltas[name] or 0) + by
end

local function gauge(name, by)
  gauge_deltas[name] = (gauge_deltas[name] or 0) + by
end

-- Update the gauge of waiting jobs that pauses of blasts hold; call it after a blast's counts or its pause have changed.
local function gauge_paused(key)
  local v = redis.call('HMGET', key, 'paused', 'paused_jobs', 'enqueued', 'processing', 'scheduled', unpack(TERMINAL))
  local before, held = tonumber(v[2] or 0), 0
  if v[1] then
    held = tonumber(v[3] or 0)
    for i = 4, 5 + #TERMINAL do held = held - tonumber(v[i] or 0) end
  end
  if held == before then return end
  redis.call('HINCRBY', C .. ':gauges', 'paused', held - before)
  if held == 0 then redis.call('HDEL', key, 'paused_jobs') else redis.call('HSET', key, 'paused_jobs', held) end
end

-- Emit the end of a blast on this channel, once, when its last job has reached a terminal status. This also ends its pause:
-- otherwise jobs that are sent again would wait for a resume that no operator expects.
local function end_if_complete(blast, now_ms, keep_ms, events)
  local key = C .. ':blast:' .. blast
  local v = redis.call('HMGET', key, 'total', 'enqueued', 'ended_at', 'parts', 'shares', unpack(TERMINAL))
  if not v[1] or v[3] then return end
  local sum, counts = 0, {}
  for i, status in ipairs(TERMINAL) do
    local n = tonumber(v[5 + i] or 0)
    counts[status] = n
    sum = sum + n
  end
  if sum < tonumber(v[1]) or tonumber(v[2] or 0) < tonumber(v[1]) then return end
  counts['total'] = tonumber(v[1])
  redis.call('HSET', key, 'ended_at', int(now_ms))
  -- a blast of several partitions or channels expires as a whole (`BlastStore.expire`): its counts are a sum
  if not v[4] and not v[5] then redis.call('PEXPIRE', key, keep_ms) end
  redis.call('HDEL', key, 'paused')
  gauge_paused(key)
  local event = { 'blast_channel_ended', now_ms, blast, channel_name(), counts }
  if v[4] then event[6], event[7] = tonumber(string.match(C, '%.(%d+)%a?}') or 0), tonumber(v[4]) end
  events[#events + 1] = cmsgpack.pack(event)
end

local function add_to(key, changes)
  for name, by in pairs(changes) do
    if by ~= 0 then redis.call('HINCRBY', key, name, by) end
  end
end

-- Return whether these changes include more than jobs that begin or cease to wait for a limit.
local function has_moved(changes)
  for name in pairs(changes) do
    if name ~= 'limited' then return true end
  end
  return false
end

-- Count that a job of a blast has moved to another entry, although no count changes: the doctor counts over several calls.
local function note_move(blast)
  count(blast, 'limited', 0)
end

-- Without `keep_ms` no blast is ended: for scripts whose moves cannot end a job. The hash of a blast that has expired is not
-- created again, because it would never be deleted.
local function write_counts(now_ms, keep_ms, events)
  add_to(C .. ':counters', channel_deltas)
  add_to(C .. ':gauges', gauge_deltas)
  for blast, d in pairs(deltas) do
    local key = C .. ':blast:' .. blast
    local v = known_blasts[blast] or redis.call('HMGET', key, 'total', 'paused')
    if v[1] then
      add_to(key, d)
      redis.call('HSET', key, 'changed_at', int(now_ms), has_moved(d) and 'moved_at' or 'changed_at', int(now_ms))
      if keep_ms then end_if_complete(blast, now_ms, keep_ms, events) end
      if v[2] then gauge_paused(key) end
    end
  end
end

-- Return the record of a job that was abandoned in flight, or whose answer was lost:
-- "<times abandoned> <times uncertain> <run> <outcome, - while open> <seconds of the last change>".
local function stall_of(job_id)
  local kept = redis.call('HGET', C .. ':stalls', job_id)
  if not kept then return nil end
  local stalls, uncertain, run, outcome = string.match(kept, '^(%d+) (%d+) (%d+) (%S+)')
  return { stalls = tonumber(stalls), uncertain = tonumber(uncertain), run = tonumber(run), outcome = outcome }
end

local function keep_stall(job_id, s, now_ms)
  local kept = s.stalls .. ' ' .. s.uncertain .. ' ' .. s.run .. ' ' .. s.outcome .. ' ' .. int(now_ms / 1000)
  redis.call('HSET', C .. ':stalls', job_id, kept)
end

-- Record the new entry of a job: a late answer must find it, if the job had been abandoned in flight, or if a failover lost
-- its earlier entry.
local any_place
local function note_place(job_id, stream, id)
  redis.call('HSET', C .. ':places', job_id, stream .. ' ' .. id)
  any_place = true
end

local function forget_place(job_id)
  if any_place == nil then any_place = redis.call('EXISTS', C .. ':places') == 1 end
  if any_place then redis.call('HDEL', C .. ':places', job_id) end
end

-- End the stall of a job that is swept: otherwise a late answer would count it as if it still waited.
local function end_stall(job_id, status, now_ms)
  local stall = stall_of(job_id)
  if not stall then return end
  stall.outcome = status
  keep_stall(job_id, stall, now_ms)
end
