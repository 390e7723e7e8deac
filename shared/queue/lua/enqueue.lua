#!lua
-- Add a chunk of a blast's jobs on this channel, once.
--
-- KEYS  the channel's hash tag
-- ARGV  1 blast id · 2 series ("jobs", or "run:…" for dead letters sent again) · 3 position of the first job ·
--       4 total of the blast on this channel · 5 lane · 6 scheduled time in µs, 0 for now · 7 head of the event
--       batch · 8 the packed `queued` event · 9 … pairs: job id, packed job
-- Result  {added, watermark, cancelled 0|1}; an error GAP where jobs before the first are missing
-- Without allow-oom on purpose: a full Redis takes no new work, and so can always drain.
-- A crash before: nothing happened. After: a repeated chunk finds the watermark and adds nothing twice.

local blast, series, first = ARGV[1], ARGV[2], tonumber(ARGV[3])
local lane, scheduled_us = ARGV[5], tonumber(ARGV[6])
local key = C .. ':blast:' .. blast
local state = redis.call('HMGET', key, 'wm:' .. series, 'cancelled', 'paused', 'incomplete')
local watermark = tonumber(state[1] or 0)
if series == 'jobs' and (state[2] or state[4]) then return { 0, watermark, 1 } end
local n = (#ARGV - 8) / 2
if first > watermark then return redis.error_reply('GAP the chunk starts at ' .. first .. ', the watermark is ' .. watermark) end
local skip = watermark - first
if skip >= n then return { 0, watermark, 0 } end

local now = now_us()
local now_ms = math.floor(now / 1000)
local later = scheduled_us > now
local own = lane == 'bulk' or (state[3] and not later)
if later and lane ~= 'bulk' then
  local kind = 's' .. string.sub(lane, 1, 1)
  for i = skip, n - 1 do
    local job_id, job = ARGV[9 + 2 * i], ARGV[10 + 2 * i]
    redis.call('ZADD', C .. ':later', int(scheduled_us), job_id)
    redis.call('HSET', C .. ':later:jobs', job_id, kind .. job)
  end
else
  local stream = C .. ':jobs:' .. lane
  if own then
    stream = C .. ':jobs:bulk:' .. blast
    if redis.call('SADD', C .. ':streams', blast) == 1 then
      make_group(stream)
      if not state[3] then redis.call('ZADD', C .. ':ring', int(later and scheduled_us or now), stream) end
    end
  end
  for i = skip, n - 1 do redis.call('XADD', stream, '*', 'd', ARGV[10 + 2 * i]) end
end

local added = n - skip
redis.call('HSET', key, 'wm:' .. series, int(first + n), 'moved_at', int(now_ms))
if series == 'jobs' then
  redis.call('HSET', key, 'total', ARGV[4], 'lane', lane)
  redis.call('HINCRBY', key, 'enqueued', added)
  if later then
    redis.call('HINCRBY', key, 'scheduled', added)
    redis.call('HSET', key, 'scheduled_at', int(scheduled_us / 1000))
  end
else
  redis.call('HINCRBY', key, 'failed', -added)
  redis.call('HDEL', key, 'ended_at')
  redis.call('PERSIST', key)
end
redis.call('HINCRBY', C .. ':counters', 'enqueued', added)
emit(ARGV[7], { ARGV[8] })
ring_bell()
return { added, first + n, 0 }
