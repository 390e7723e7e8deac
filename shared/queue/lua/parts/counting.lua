-- How the jobs in Redis count, for the doctor: the status of an entry, and a blast's counts compared with what was found.
local OPEN = { 'processing', 'retrying', 'scheduled', 'limited' }

-- Return how a job waits that has had `made` attempts in its entry.
local function waits(job, made)
  if job[9] + made > 0 or job[10] > 0 then return 'retrying' end
  return 'queued'
end

-- Return whether a stream's jobs count as scheduled: it is scheduled as a whole and has never been fetched from.
local function never_served(stream)
  local blast = bulk_blast(stream)
  if not blast or redis.call('HEXISTS', C .. ':blast:' .. blast, 'scheduled_whole') == 0 then return false end
  local groups = redis.call('XINFO', 'GROUPS', stream)
  return #groups > 0 and groups[1][8] == '0-0'
end

-- Return the blast and the status of an entry, whose row in the pending list is `row`; nil if this server cannot read it.
local function status_of(raw, row, scheduled)
  if not row and is_untried(raw) then
    local _, _, blast = pcall(cmsgpack.unpack_limit, raw, 1, 1)
    if type(blast) == 'string' then return blast, scheduled and 'scheduled' or 'queued' end
  end
  local job = read_job(raw)
  if not job then return nil end
  if scheduled then return job[1], 'scheduled' end
  if not row then return job[1], waits(job, 0) end
  if string.sub(row[2], -3) == ':tx' then return job[1], 'processing' end
  -- `~back` and `~retry` count the attempts made; a sender's buffer counts the one that it holds the job for as well
  return job[1], waits(job, string.sub(row[2], 1, 1) == '~' and row[4] or math.max(row[4] - 1, 0))
end

-- Compare a blast's counts with the jobs found (`all`, and the number for each status of OPEN); correct them if `repair`.
-- Return the numbers of missing jobs and of jobs too many; nil if the counts agree.
local function check_counts(blast, found, repair, now_ms, keep_ms, events)
  local key = C .. ':blast:' .. blast
  local v = redis.call('HMGET', key, 'total', 'enqueued', unpack(OPEN))
  local ended = redis.call('HMGET', key, unpack(TERMINAL))
  local enqueued = tonumber(v[2] or 0)
  local open = enqueued
  for i = 1, #TERMINAL do open = open - tonumber(ended[i] or 0) end
  local wrong = open ~= found.all
  for i, status in ipairs(OPEN) do wrong = wrong or tonumber(v[2 + i] or 0) ~= found[status] end
  if not wrong then return nil end
  local missing, many = math.max(0, open - found.all), math.max(0, found.all - open)
  if not repair then return missing, many end
  for _, status in ipairs(OPEN) do redis.call('HSET', key, status, found[status]) end
  if missing > 0 then
    redis.call('HINCRBY', key, 'failed', missing)
    redis.call('HINCRBY', C .. ':counters', 'failed', missing)
  elseif many > 0 then
    redis.call('HINCRBY', key, 'enqueued', many)
    redis.call('HINCRBY', C .. ':counters', 'enqueued', many)
  end
  if tonumber(v[1] or 0) < enqueued + many then redis.call('HSET', key, 'total', int(enqueued + many)) end
  end_if_complete(blast, now_ms, keep_ms, events)
  return missing, many
end
