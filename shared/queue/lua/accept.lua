#!lua
-- Accept single messages: for each, store the snapshot of its blast and add its only job, once.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 head of the event batch · 2 … six for each message: blast id, lane (`high` or `normal`), packed snapshot, packed
--       job, packed `blast_accepted` event, packed `queued` event
-- Result  for each message 1 if it was added, 0 if it had been added before, -1 if something else has been stored of its blast
--         in this partition: then create and enqueue it as any other
-- A snapshot has its own slot, so this script cannot run on a cluster. What it leaves is what creating a blast and `enqueue`
-- leave of a blast of one job, which is not scheduled, has no files, and is new, so neither paused nor cancelled.
-- Without allow-oom on purpose, as `enqueue`.
-- A crash before: nothing happened. After: a repeated call finds the watermark and adds nothing twice.

local now_ms = int(math.floor(now_us() / 1000))
local from = int(tonumber(now_ms) - 1000) .. '-0' -- ids may be from a cached, older time
local events, results, added = {}, {}, 0
for at = 2, #ARGV, 6 do
  local blast, lane = ARGV[at], ARGV[at + 1]
  local key = C .. ':blast:' .. blast
  if redis.call('EXISTS', key) == 1 then
    results[#results + 1] = redis.call('HEXISTS', key, 'wm:jobs') - 1
  else
    redis.call('HSETNX', 'blast:' .. blast, 'snapshot', ARGV[at + 2])
    local id = redis.call('XADD', C .. ':jobs:' .. lane, '*', 'd', ARGV[at + 3])
    redis.call(
      'HSET', key, 'total', 1, 'enqueued', 1, 'wm:jobs', 1, 'lane', lane, 'from', from, 'to', id,
      'moved_at', now_ms, 'changed_at', now_ms
    )
    events[#events + 1] = ARGV[at + 4]
    events[#events + 1] = ARGV[at + 5]
    added = added + 1
    results[#results + 1] = 1
  end
end
if added > 0 then
  count_channel('enqueued', added)
  write_counts(tonumber(now_ms), nil, events)
  emit(ARGV[1], events)
  wake_senders()
end
return results
