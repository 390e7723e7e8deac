#!lua flags=allow-oom
-- End waiting jobs wherever they wait: cancelled ones, and what `doctor` found.
--
-- KEYS  the channel's hash tag
-- ARGV  1 head of the event batch · 2 ms that an ended blast is kept · 3 status · 4 the packed event of all, or
--       "" where each has its own · 5 … five a job: stream ("" where it is due later), id, job id,
--       "r" if it waits for a further attempt by its own numbers else "q" or "s" (scheduled), the packed event
-- Result  one character a job: "1" ended, "t" in mid-send and left alone, "0" not there any more
-- Safe to repeat: what is gone is skipped.

local now_ms, status = math.floor(now_us() / 1000), ARGV[3]
local events, gone, done, n = {}, {}, {}, 0

local function end_job(job_id, waited, event)
  local blast = string.match(job_id, '^[^:]+')
  if waited == 'r' then count(blast, 'retrying', -1) elseif waited == 's' then count(blast, 'scheduled', -1) end
  count(blast, status, 1)
  count_channel(status, 1)
  redis.call('HDEL', C .. ':cancels', job_id)
  if ARGV[4] == '' then events[#events + 1] = event end
  n = n + 1
  return '1'
end

local function sweep_later(job_id, waited, event)
  if redis.call('ZREM', C .. ':later', job_id) == 0 then return '0' end
  local kept = redis.call('HGET', C .. ':later:jobs', job_id)
  redis.call('HDEL', C .. ':later:jobs', job_id)
  if kept and string.sub(kept, 1, 1) == 's' then waited = 's' end
  return end_job(job_id, waited, event)
end

local scheduled = {}
local function is_scheduled(job_id)
  local blast = string.match(job_id, '^[^:]+')
  if scheduled[blast] == nil then
    scheduled[blast] = tonumber(redis.call('HGET', C .. ':blast:' .. blast, 'scheduled') or 0) > 0
  end
  return scheduled[blast]
end

local function sweep_stream(stream, id, job_id, waited, event)
  local consumer, attempts = holder(stream, id)
  if consumer then
    if string.sub(consumer, -3) == ':tx' then return 't' end
    if consumer == '~retry' or (consumer == '~back' and attempts > 0) or (consumer ~= '~back' and attempts > 1) then waited = 'r' end
    redis.call('XACK', stream, GROUP, id)
  elseif bulk_blast(stream) and waited == 'q' and is_scheduled(job_id) then
    waited = 's'
  end
  if redis.call('XDEL', stream, id) == 0 then return '0' end
  gone[stream] = true
  return end_job(job_id, waited, event)
end

for i = 1, (#ARGV - 4) / 5 do
  local base = 4 + (i - 1) * 5
  local stream, id, job_id, waited, event = ARGV[base + 1], ARGV[base + 2], ARGV[base + 3], ARGV[base + 4], ARGV[base + 5]
  if stream == '' then
    done[i] = sweep_later(job_id, waited, event)
  else
    done[i] = sweep_stream(stream, id, job_id, waited, event)
  end
end
for stream in pairs(gone) do drop_if_empty(stream) end
if ARGV[4] ~= '' and n > 0 then events[1] = ARGV[4] end
write_counts(now_ms, tonumber(ARGV[2]), events)
emit(ARGV[1], events)
return table.concat(done)
