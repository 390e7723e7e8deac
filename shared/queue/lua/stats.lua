#!lua flags=allow-oom
-- Count what is where on this channel, now.
--
-- KEYS  the channel's hash tag
-- ARGV  1 most bulk streams to look into
-- Result  JSON: per stream kind {waiting, active, delayed}, oldest entry in ms by lane, later, scheduled, paused
--         jobs, counters, pause reason, events lag, senders (id -> {said, alive})
-- Reads only. Waiting = XLEN − PEL + :buf + ~back; XINFO's lag is not used, it goes null after an XDEL.

local out = { waiting = {}, oldest = {}, active = 0, delayed = 0, paused_jobs = 0 }
local now_ms = math.floor(now_us() / 1000)

local function look(stream, lane, paused)
  local length = redis.call('XLEN', stream)
  if length == 0 then return end
  local waiting = length
  local summary = redis.pcall('XPENDING', stream, GROUP)
  if not summary.err and type(summary[4]) == 'table' then
    for _, row in ipairs(summary[4]) do
      local name, n = row[1], tonumber(row[2])
      if string.sub(name, -3) == ':tx' then
        out.active = out.active + n
        waiting = waiting - n
      elseif name == '~retry' then
        out.delayed = out.delayed + n
        waiting = waiting - n
      end
    end
  end
  out.waiting[lane] = (out.waiting[lane] or 0) + waiting
  if paused then out.paused_jobs = out.paused_jobs + waiting end
  if waiting > 0 then
    local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    local at = first and tonumber(string.match(first[1], '^%d+'))
    if at and (not out.oldest[lane] or at < out.oldest[lane]) then out.oldest[lane] = at end
  end
end

local channel_paused = redis.call('GET', C .. ':paused')
out.paused = channel_paused or ''
look(C .. ':jobs:high', 'high', channel_paused)
look(C .. ':jobs:normal', 'normal', channel_paused)
look(C .. ':jobs:due', 'bulk', channel_paused)
local scheduled = 0
for i, blast in ipairs(redis.call('SMEMBERS', C .. ':streams')) do
  if i > tonumber(ARGV[1]) then break end
  local v = redis.call('HMGET', C .. ':blast:' .. blast, 'paused', 'scheduled')
  if tonumber(v[2] or 0) > 0 then
    scheduled = scheduled + redis.call('XLEN', C .. ':jobs:bulk:' .. blast)
  else
    look(C .. ':jobs:bulk:' .. blast, 'bulk', channel_paused or v[1])
  end
end
out.scheduled_bulk = scheduled
out.later = redis.call('ZCARD', C .. ':later')
out.later_scheduled = 0
if out.later > 0 and out.later <= 10000 then
  for _, kept in ipairs(redis.call('HVALS', C .. ':later:jobs')) do
    if string.sub(kept, 1, 1) == 's' then out.later_scheduled = out.later_scheduled + 1 end
  end
end
local counters = redis.call('HGETALL', C .. ':counters')
out.counters = {}
for i = 1, #counters, 2 do out.counters[counters[i]] = tonumber(counters[i + 1]) end
out.events = redis.call('XLEN', C .. ':events')
out.gap_us = tonumber(redis.call('HGET', C .. ':config', 'gap_us') or -1)
out.senders = {}
local senders = redis.call('HGETALL', C .. ':senders')
for i = 1, #senders, 2 do
  if redis.call('EXISTS', C .. ':sender:' .. senders[i]) == 1 then out.senders[senders[i]] = senders[i + 1] end
end
out.now_ms = now_ms
return cjson.encode(out)
