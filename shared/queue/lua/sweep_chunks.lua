#!lua flags=allow-oom
-- End chunks of the waiting jobs of a blast's own stream without reading them: those of which nobody has fetched or removed
-- any entry since `enqueue` recorded the chunk.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS files, ranges
-- ARGV  1 head of the event batch · 2 ms to keep an ended blast · 3 status · 4 blast id · 5 number of the first chunk to
--       look at · 6 most chunks, of which one that cannot be trimmed counts as five · 7 the packed fields of a
--       `SweptRanges` from its status to its message
-- Result  {number of the chunk to look at next, -1 after the last; jobs ended}
-- All other jobs are left to `sweep_blast_stream`: those of other chunks, and every job if one of the blast may have a file
-- or a record of its own.
-- Safe to repeat: a chunk that is gone is before the first entry, or has entries that were removed.

local status, blast, from, most = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local stream, numbers = C .. ':jobs:bulk:' .. blast, {}
for number = from, from + most - 1 do numbers[#numbers + 1] = number end
local chunks = redis.call('HMGET', C .. ':chunks:' .. blast, unpack(numbers))
local info = redis.pcall('XINFO', 'STREAM', stream)
if not chunks[1] or info.err or has_files(blast) or has_records(blast) then return { -1, 0 } end
local removed -- the greatest id that was removed by itself; what was trimmed is before the first entry
for i = 1, #info, 2 do
  if info[i] == 'max-deleted-entry-id' then removed = info[i + 1] end
end

local function front()
  local entry = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  return entry and entry[1]
end

-- An entry that was fetched is pending until it is acknowledged and removed, in one step. So if none of a chunk is pending,
-- and no later id than those before the chunk was removed, all of it waits untouched, unless it was trimmed.
local function waits_untouched(first_id, last_id, first)
  if not first or id_before(first_id, first) or not id_before(removed, first_id) then return false end
  return #redis.call('XPENDING', stream, GROUP, first_id, last_id, 1) == 0
end

-- Trimming removes whole blocks of entries, and needs no ids; but it removes all that is before as well. Returns its cost.
local function remove(ms, low, high, first)
  if first == ms .. '-' .. int(low) then
    redis.call('XTRIM', stream, 'MINID', ms .. '-' .. int(high + 1))
    return 1
  end
  local ids, prefix = {}, ms .. '-'
  for number = low, high do ids[number - low + 1] = prefix .. number end
  redis.call('XDEL', stream, unpack(ids))
  removed = ids[#ids]
  return 5
end

local now_ms, events, ended = math.floor(now_us() / 1000), {}, 0
local ranges = make_ranges(blast, status, ARGV[7], now_ms, events)
local looked, cost = 0, 0
while cost < most and chunks[looked + 1] do
  looked, cost = looked + 1, cost + 1
  local ms, low, high, run, indexes = string.match(chunks[looked], '^(%d+) (%d+) (%d+) (%d+) (.*)$')
  local first = front()
  if waits_untouched(ms .. '-' .. low, ms .. '-' .. high, first) then
    low, high, run = tonumber(low), tonumber(high), tonumber(run)
    cost = cost - 1 + remove(ms, low, high, first)
    for from_index, to_index in string.gmatch(indexes, '(%d+) (%d+)') do
      ranges.add(tonumber(from_index), tonumber(to_index), run)
    end
    ended = ended + high - low + 1
  end
end
ranges.finish()
drop_if_empty(stream)
write_counts(now_ms, tonumber(ARGV[2]), events)
emit(ARGV[1], events)
return { cost >= most and from + looked or -1, ended }
