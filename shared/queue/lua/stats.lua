#!lua flags=allow-oom,no-writes
-- Count the jobs of this channel by place and status, at a cost that does not grow with the backlog or the bulk blasts.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 most bulk streams to read the oldest job from
-- Result  JSON: waiting by lane, active, delayed, scheduled, jobs that a pause holds, oldest waiting entry in ms by
--         lane, counters, pause reason, events lag, rate set at run time, senders (id -> its state), server's time
-- Only reads. The scripts that move jobs keep gauges of active and scheduled jobs; waiting jobs are the rest of those that
-- were enqueued and have not ended. XINFO's lag is not used, because it becomes null after an XDEL.

local out = { waiting = {}, oldest = {} }
local function numbers(key)
  local flat, found = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do found[flat[i]] = tonumber(flat[i + 1]) end
  return found
end

local counters, gauges = numbers(C .. ':counters'), numbers(C .. ':gauges')
local in_redis = counters['enqueued'] or 0
for _, status in ipairs(TERMINAL) do in_redis = in_redis - (counters[status] or 0) end
out.active = gauges['processing'] or 0
out.scheduled = gauges['scheduled'] or 0
out.delayed = redis.call('ZCARD', C .. ':parked') + redis.call('HLEN', C .. ':later:jobs') - (gauges['later_scheduled'] or 0)
local waiting = in_redis - out.active - out.scheduled - out.delayed

local function note_oldest(stream, lane)
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  local at = first and tonumber(string.match(first[1], '^%d+'))
  if at and (not out.oldest[lane] or at < out.oldest[lane]) then out.oldest[lane] = at end
end

local function count_lane(stream, lane)
  local n = redis.call('XLEN', stream)
  if n > 0 then
    local summary = redis.pcall('XPENDING', stream, GROUP)
    if not summary.err and type(summary[4]) == 'table' then
      for _, row in ipairs(summary[4]) do
        if string.sub(row[1], -3) == ':tx' or row[1] == '~retry' then n = n - tonumber(row[2]) end
      end
    end
    if n > 0 then note_oldest(stream, lane) end
  end
  out.waiting[lane] = (out.waiting[lane] or 0) + n
  return n
end

local shared = count_lane(C .. ':jobs:high', 'high') + count_lane(RELEASED_HIGH, 'high') + count_lane(C .. ':jobs:normal', 'normal')
out.waiting['bulk'] = waiting - shared
note_oldest(C .. ':jobs:due', 'bulk')
note_oldest(RELEASED, 'bulk')
for _, stream in ipairs(redis.call('ZRANGE', C .. ':ring', 0, tonumber(ARGV[1]) - 1)) do note_oldest(stream, 'bulk') end

local paused = redis.call('GET', C .. ':paused')
out.paused = paused or ''
out.paused_jobs = 0
if paused then
  out.paused_jobs = waiting
else
  out.paused_jobs = gauges['paused'] or 0
end
out.counters = counters
out.events = redis.call('XLEN', C .. ':events')
local config = redis.call('HMGET', C .. ':config', 'gap_us', 'rate')
out.gap_us = tonumber(config[1] or -1)
out.rate = config[2] or ''
out.senders = {}
local senders = redis.call('HGETALL', C .. ':senders')
for i = 1, #senders, 2 do
  if redis.call('EXISTS', C .. ':sender:' .. senders[i]) == 1 then out.senders[senders[i]] = senders[i + 1] end
end
out.now_ms = math.floor(now_us() / 1000)
return cjson.encode(out)
