#!lua flags=allow-oom
-- Find the senders that hold entries or are listed and have no heartbeat. Also free stale buffers and the files of lost
-- jobs, forget old stalls, and correct times that are too far ahead.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS files, limits
-- ARGV  1 this sender · 2 ms that an entry may be idle in a `:buf` · 3 ms after which a stall is forgotten · 4 V in ms
-- Result  {1 if this sender's own heartbeat holds, else 0, entries freed from stale buffers, sender without a
--          heartbeat, …}
-- A job that is idle too long in another sender's `:buf` (that sender is frozen) is given back at no cost. Each call checks
-- some of the streams in which each sender holds something, and the next page of all streams, because Redis is blocked
-- meanwhile.

local missing, seen, freed = {}, {}, 0

local function note_sender(sender)
  if seen[sender] then return end
  seen[sender] = true
  if redis.call('EXISTS', C .. ':sender:' .. sender) == 0 then missing[#missing + 1] = sender end
end

local function free_stale(stream, sender)
  if sender == ARGV[1] then return end
  local rows = redis.pcall('XPENDING', stream, GROUP, 'IDLE', ARGV[2], '-', '+', 500, sender .. ':buf')
  if rows.err or #rows == 0 then return end
  for _, entry in ipairs(rows) do give_back(stream, entry[1], math.max(entry[4] - 1, 0)) end
  freed = freed + #rows
  serve(stream)
end

local function check_stream(stream)
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, GROUP)
  if consumers.err then return end
  for _, row in ipairs(consumers) do
    local name, pending = row[2], row[4]
    local sender, kind = string.match(name, '^(.+):(%a+)$')
    if sender then
      note_sender(sender)
      if kind == 'buf' and pending > 0 then free_stale(stream, sender) end
    end
  end
end

for _, stream in ipairs(SHARED_STREAMS) do check_stream(stream) end
local some = redis.call('SSCAN', C .. ':streams', redis.call('GET', C .. ':look') or '0', 'COUNT', 64)
redis.call('SET', C .. ':look', some[1], 'PX', 60000)
for _, blast in ipairs(some[2]) do check_stream(C .. ':jobs:bulk:' .. blast) end
for _, sender in ipairs(redis.call('HKEYS', C .. ':senders')) do
  note_sender(sender)
  for _, blast in ipairs(redis.call('SRANDMEMBER', held_key(sender), 16)) do
    if blast ~= '' then free_stale(C .. ':jobs:bulk:' .. blast, sender) end
  end
end
if freed > 0 then wake_senders() end

-- A blast that ended long ago has no jobs that need files: if some are still recorded, these jobs were lost.
local function free_some_files()
  local now_ms = math.floor(now_us() / 1000)
  local blast, cursor = string.match(redis.call('GET', C .. ':look:files') or '', '^(%S+) (%d+)$')
  if not blast or not ended_long_ago(blast, now_ms) then
    blast, cursor = nil, '0'
    for _, one in ipairs(redis.call('SRANDMEMBER', C .. ':filed', 16)) do
      if ended_long_ago(one, now_ms) then blast = one end
    end
    if not blast then return end
  end
  local following = free_lost(blast, cursor, 50, true)
  if following == '0' then
    redis.call('DEL', C .. ':look:files')
  else
    redis.call('SET', C .. ':look:files', blast .. ' ' .. following, 'PX', 60000)
  end
end
free_some_files()

-- Times farther ahead than any that is set were written before the server's clock was set back: nothing would happen until
-- then. Retries are due now, limits get their next start, and streams that rest get turns. Times of scheduled and deferred
-- jobs may be any.
local FEW, A_WHILE, LONGEST_REST = 64, 5000000, 10000000
local now = now_us()

local function too_far(key, most_ahead)
  local least = '(' .. int(now + most_ahead + A_WHILE)
  return redis.call('ZRANGE', key, '+inf', least, 'BYSCORE', 'REV', 'LIMIT', 0, FEW, 'WITHSCORES')
end

local function correct_retries()
  local found = too_far(C .. ':parked', tonumber(ARGV[4]) * 1000)
  for i = 1, #found, 2 do redis.call('ZADD', C .. ':parked', int(now), found[i]) end
end

local function correct_limits(index)
  local found = too_far(C .. index, FARTHEST_START)
  for i = 1, #found, 2 do
    local gap = limit_pace(found[i])
    if tonumber(found[i + 1]) > now + gap + FARTHEST_START + A_WHILE then index_limit(found[i], now, true) end
  end
end

local function correct_rests()
  if redis.call('EXISTS', C .. ':limits:runs') == 0 then return end
  local some = redis.call('HSCAN', C .. ':limits:runs', redis.call('GET', C .. ':look:runs') or '0', 'COUNT', FEW)
  redis.call('SET', C .. ':look:runs', some[1], 'PX', 60000)
  for i = 1, #some[2], 2 do
    local stream = some[2][i]
    local starts_at = tonumber(redis.call('ZSCORE', C .. ':starts', stream) or 0)
    local scheduled = redis.call('HEXISTS', C .. ':blast:' .. bulk_blast(stream), 'scheduled_whole') == 1
    if starts_at > now + LONGEST_REST + A_WHILE and not scheduled then
      redis.call('ZREM', C .. ':starts', stream)
      serve(stream)
    end
  end
end

correct_retries()
for _, index in ipairs({ ':limits:high', ':limits:due' }) do correct_limits(index) end
correct_rests()

local now_s = math.floor(now / 1000000)
local scan = redis.call('HSCAN', C .. ':stalls', redis.call('GET', C .. ':stalls:cursor') or '0', 'COUNT', 100)
redis.call('SET', C .. ':stalls:cursor', scan[1], 'PX', 3600000)
for i = 1, #scan[2], 2 do
  local outcome, at = string.match(scan[2][i + 1], '(%S+) (%d+)$')
  local keep_s = tonumber(ARGV[3]) / 1000
  -- a job that is still open (paused, deferred) must not be sent again because its past was forgotten
  if outcome == '-' then keep_s = keep_s * 30 end
  if now_s - tonumber(at) > keep_s then
    redis.call('HDEL', C .. ':stalls', scan[2][i])
    redis.call('HDEL', C .. ':places', scan[2][i])
  end
end
return { redis.call('EXISTS', C .. ':sender:' .. ARGV[1]), freed, unpack(missing) }
