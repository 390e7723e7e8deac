#!lua flags=allow-oom
-- A message was accepted by its provider after its lease had been lost: within one run, `sent` outranks all.
--
-- KEYS  the channel's hash tag
-- ARGV  1 sender · 2 sequence · 3 head of the event batch · 4 ms that an ended blast is kept ·
--       5 … five a job: stream, id, job id, run, the packed `sent` event, marked late
-- Result  one character a job: "1" the counts moved to sent, "0" they had been there or are unknown
-- The waiting copy goes at once, also where it was moved to another entry since.
-- A crash before: the job stays as its reaper left it, and may be sent again (G2). After: the same answer again.

local sender, sequence = ARGV[1], ARGV[2]
local kept = replayed(sender, 'late', sequence)
if kept then return kept end

local now_ms = math.floor(now_us() / 1000)
local events, done = {}, {}

-- Take a waiting copy away, wherever it is pending or new; nil where it is not in the stream.
local function take_away(stream, id)
  if redis.call('XDEL', stream, id) == 0 then return nil end
  local consumer = holder(stream, id)
  if consumer then redis.call('XACK', stream, GROUP, id) end
  unpark(stream, id)
  drop_if_empty(stream)
  if consumer and string.sub(consumer, -3) == ':tx' then return 'processing' end
  return 'retrying'
end

local function from_where(stream, id, job_id, outcome)
  if outcome ~= '-' then return outcome end
  redis.call('HDEL', C .. ':cancels', job_id)
  local was = take_away(stream, id)
  local place = redis.call('HGET', C .. ':places', job_id)
  if not was and place then was = take_away(string.match(place, '^(%S+) (%S+)$')) end
  redis.call('HDEL', C .. ':places', job_id)
  if redis.call('ZREM', C .. ':later', job_id) == 1 then redis.call('HDEL', C .. ':later:jobs', job_id) end
  return was or 'retrying'
end

for i = 1, (#ARGV - 4) / 5 do
  local base = 4 + (i - 1) * 5
  local stream, id, job_id, run = ARGV[base + 1], ARGV[base + 2], ARGV[base + 3], tonumber(ARGV[base + 4])
  local stall = stall_of(job_id)
  done[i] = '0'
  if stall and stall.run == run and stall.outcome ~= 'sent' then
    local blast = string.match(job_id, '^[^:]+')
    local was = from_where(stream, id, job_id, stall.outcome)
    count(blast, was, -1)
    count(blast, 'sent', 1)
    if stall.outcome ~= '-' then count_channel(was, -1) end
    count_channel('sent', 1)
    if stall.outcome ~= '-' then redis.call('HDEL', C .. ':blast:' .. blast, 'ended_at') end -- its end is told anew
    stall.outcome = 'sent'
    keep_stall(job_id, stall, now_ms)
    done[i] = '1'
  end
  events[#events + 1] = ARGV[base + 5]
end

write_counts(now_ms, tonumber(ARGV[4]), events)
emit(ARGV[3], events)
return remember(sender, 'late', sequence, table.concat(done))
