#!lua flags=allow-oom
-- Check one page of a stream's pending list, and with the first page the stream itself; repair what is wrong.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 stream · 2 "1" to repair, "0" to check only · 3 V in ms · 4 id from which the page begins ("-" for the first) ·
--       5 entries per page
-- Result  {id from which the next page begins or "", ghosts (pending but not in the stream), parked entries without a
--          time, consumers without a sender, 1 if the stream is not listed, 1 if it gets no turns,
--          1 if it is empty}
-- A page ends early after about a megabyte, because Redis is blocked meanwhile.
-- Repair: ghosts are acknowledged, parked entries become due by their idle time, consumers that hold nothing are deleted;
-- the stream is listed, gets its turns, or is deleted.
-- Safe to repeat.

local stream, repair, park_ms, start, most = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local now = now_us()
local blast = bulk_blast(stream)
local ghosts, timeless, leaked = 0, 0, 0
local PAGE_BYTES, bytes = 1000000, 0

local function check_entry(row)
  local id, consumer, idle = row[1], row[2], row[3]
  local entry = redis.call('XRANGE', stream, id, id)[1]
  bytes = bytes + (entry and #entry[2][2] or 0)
  if not entry then
    ghosts = ghosts + 1
    if repair then
      redis.call('XACK', stream, GROUP, id)
      unpark(stream, id)
    end
  elseif consumer == '~retry' and not redis.call('ZSCORE', C .. ':parked', stream .. ' ' .. id) then
    timeless = timeless + 1
    if repair then redis.call('ZADD', C .. ':parked', int(now + math.max(0, park_ms - idle) * 1000), stream .. ' ' .. id) end
  end
end

local rows = redis.pcall('XPENDING', stream, GROUP, start, '+', most)
if rows.err then rows = {} end
local following = #rows == most and '(' .. rows[#rows][1] or ''
for _, row in ipairs(rows) do
  check_entry(row)
  if bytes > PAGE_BYTES then
    following = '(' .. row[1]
    break
  end
end
if start ~= '-' then return { following, ghosts, timeless, 0, 0, 0, 0 } end

local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, GROUP)
for _, row in ipairs(consumers.err and {} or consumers) do
  local sender = string.match(row[2], '^(.+):(%a+)$')
  if sender and row[4] == 0 and redis.call('EXISTS', C .. ':sender:' .. sender) == 0 then
    leaked = leaked + 1
    if repair then redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, row[2]) end
  end
end

local function to_take()
  local n = redis.call('XLEN', stream)
  local summary = redis.pcall('XPENDING', stream, GROUP)
  if summary.err or type(summary[4]) ~= 'table' then return n end
  for _, row in ipairs(summary[4]) do
    if row[1] ~= '~back' then n = n - tonumber(row[2]) end
  end
  return n
end

local unlisted, turnless, empty = 0, 0, 0
if blast and redis.call('XLEN', stream) == 0 then
  empty = 1
  if repair then drop_if_empty(stream) end
elseif is_ringed(stream) then
  if blast and redis.call('SISMEMBER', C .. ':streams', blast) == 0 then
    unlisted = 1
    if repair then redis.call('SADD', C .. ':streams', blast) end
  end
  local v = redis.call('HMGET', C .. ':blast:' .. (blast or ''), 'paused', 'scheduled_at', 'scheduled_whole')
  local served = redis.call('ZSCORE', C .. ':ring', stream) or redis.call('ZSCORE', C .. ':starts', stream)
  if not v[1] and to_take() > 0 and not served then
    turnless = 1
    if repair then
      make_group(stream)
      local starts_at = v[3] and tonumber(v[2]) * 1000 or 0
      if starts_at > now then serve_from(stream, starts_at) else serve(stream) end
      wake_senders()
    end
  end
end
return { following, ghosts, timeless, leaked, unlisted, turnless, empty }
