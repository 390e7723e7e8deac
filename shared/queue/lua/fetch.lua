#!lua flags=allow-oom
-- Take up to `want` jobs that may be begun soon into `<sender>:buf`.
--
-- KEYS  the channel's hash tag
-- ARGV  1 sender · 2 want · 3 V in ms · 4 due-scan interval in ms
-- Result  {reason of the channel's pause or "", 1 if something is parked or due later else 0,
--          stream, id, delivery count, packed job, …}
-- Order: `high` due, `high` new, then `normal` and the ring 4:1 while both have work, the ring one stream after
-- the other, due before new in each.
-- A crash before: nothing happened. A lost reply: the jobs are in `<sender>:buf`; `own` lists them.

local me, want, park_ms = ARGV[1] .. ':buf', tonumber(ARGV[2]), tonumber(ARGV[3])
local paused = redis.call('GET', C .. ':paused')
if paused then return { paused, 0 } end
local now = now_us()
local now_ms = math.floor(now / 1000)
local out, parked = { '', 0 }, false
local last = tonumber(redis.call('GET', C .. ':scan') or 0)
local scanning = now_ms - last >= tonumber(ARGV[4]) or now_ms < last
if scanning then redis.call('SET', C .. ':scan', int(now_ms), 'PX', 60000) end

local function add(stream, entries, counts)
  local taken = 0
  for _, entry in ipairs(entries) do
    if entry[2] then
      local n = #out
      out[n + 1], out[n + 2], out[n + 3], out[n + 4] = stream, entry[1], counts and counts[entry[1]] or 1, entry[2][2]
      taken = taken + 1
    end
  end
  return taken
end

-- Entries parked at `consumer` and idle for at least `idle`: claiming counts a delivery.
local function take_parked(stream, consumer, idle, n)
  local rows = redis.pcall('XPENDING', stream, GROUP, 'IDLE', idle, '-', '+', n, consumer)
  if rows.err or #rows == 0 then return 0 end
  local ids, counts = {}, {}
  for i, row in ipairs(rows) do
    ids[i] = row[1]
    counts[row[1]] = row[4] + 1
  end
  return add(stream, redis.call('XCLAIM', stream, GROUP, me, 0, unpack(ids)), counts)
end

local function take_new(stream, n)
  local got = redis.pcall('XREADGROUP', 'GROUP', GROUP, me, 'COUNT', n, 'STREAMS', stream, '>')
  if type(got) == 'table' and got.err then
    if not string.find(got.err, 'NOGROUP', 1, true) then error(got.err) end
    make_group(stream)
    got = redis.call('XREADGROUP', 'GROUP', GROUP, me, 'COUNT', n, 'STREAMS', stream, '>')
  end
  if not got then return 0 end
  return add(stream, got[1][2])
end

local function take(stream, n)
  if n <= 0 then return 0 end
  local taken = take_parked(stream, '~back', 0, n)
  if scanning then
    if taken < n then taken = taken + take_parked(stream, '~retry', park_ms, n - taken) end
    local rest = redis.pcall('XPENDING', stream, GROUP, '-', '+', 1, '~retry')
    if not rest.err and #rest > 0 then parked = true end
  end
  if taken < n then taken = taken + take_new(stream, n - taken) end
  return taken
end

-- Jobs due later whose time has come go to a stream: scheduled ones to their lane, deferred ones to `due`.
local function promote(n)
  local due = redis.call('ZRANGEBYSCORE', C .. ':later', '-inf', int(now), 'LIMIT', 0, n)
  for _, job_id in ipairs(due) do
    local kept = redis.call('HGET', C .. ':later:jobs', job_id)
    redis.call('ZREM', C .. ':later', job_id)
    if kept then
      redis.call('HDEL', C .. ':later:jobs', job_id)
      local kind, lane = string.sub(kept, 1, 1), string.sub(kept, 2, 2)
      local stream = C .. ':jobs:due'
      if lane == 'h' then
        stream = C .. ':jobs:high'
      elseif kind == 's' then
        stream = C .. ':jobs:normal'
      end
      if kind == 's' then
        redis.call('HINCRBY', C .. ':blast:' .. string.match(job_id, '^[^:]+'), 'scheduled', -1)
      end
      if stream == C .. ':jobs:due' and redis.call('EXISTS', stream) == 0 then make_group(stream) end
      redis.call('XADD', stream, '*', 'd', string.sub(kept, 3))
      if stream == C .. ':jobs:due' then redis.call('ZADD', C .. ':ring', 'NX', int(now), stream) end
    end
  end
  if redis.call('ZCARD', C .. ':later') > 0 then parked = true end
end

local function start_scheduled(stream)
  local blast = bulk_blast(stream)
  if not blast then return end
  local n = redis.call('HGET', C .. ':blast:' .. blast, 'scheduled')
  if n and tonumber(n) > 0 then redis.call('HSET', C .. ':blast:' .. blast, 'scheduled', 0) end
end

local turns = 0
local function take_ring(n)
  local taken = 0
  local streams = redis.call('ZRANGEBYSCORE', C .. ':ring', '-inf', int(now), 'LIMIT', 0, 16)
  for i, stream in ipairs(streams) do
    if taken >= n then break end
    local share = math.ceil((n - taken) / (#streams - i + 1))
    start_scheduled(stream)
    taken = taken + take(stream, share)
    turns = turns + 1
    if redis.call('XLEN', stream) == 0 then
      if stream == C .. ':jobs:due' then redis.call('ZREM', C .. ':ring', stream) else drop_if_empty(stream) end
    else
      redis.call('ZADD', C .. ':ring', int(now + turns), stream)
    end
  end
  return taken
end

if scanning then promote(math.max(want, 100)) end
local got = take(C .. ':jobs:high', want)
local left = want - got
if left > 0 then
  local turn = tonumber(redis.call('GET', C .. ':turn') or 0)
  local for_ring = math.floor((turn + left) / 5) - math.floor(turn / 5)
  local normal = take(C .. ':jobs:normal', left - for_ring)
  local ringed = take_ring(left - normal)
  if normal + ringed < left and normal == left - for_ring then
    normal = normal + take(C .. ':jobs:normal', left - normal - ringed)
  end
  if normal + ringed > 0 then redis.call('SET', C .. ':turn', int((turn + normal + ringed) % 1000000)) end
end
if not parked and redis.call('ZCARD', C .. ':ring') > 16 then parked = true end
out[2] = parked and 1 or 0
return out
