-- Files of jobs lie apart, `C:file:<blast>:<digest>` each, so that no script reads them. `C:files:<blast>` tells who
-- needs them: "<index>" -> "<run> <digest> …" of a job that has not ended, "!<run>:<index>" -> the same of a dead letter
-- that the log has not taken over, "#<digest>" and "+<digest>" how many of either need a file. A file goes with the
-- last that needs it. It has an expiry only while no job waits for it. `C:filed` lists the blasts that have such an account.
local FILES_KEPT_MS = 30 * 86400 * 1000
local filed = {}

local function files_key(blast)
  return C .. ':files:' .. blast
end

local function file_key(blast, digest)
  return C .. ':file:' .. blast .. ':' .. digest
end

-- Freeing hundreds of files takes tens of milliseconds, so the server does it by and by, as of what has expired. It frees
-- at once all that it finds expired, hence a moment of its own for each, within two seconds.
local function drop_file(blast, digest)
  redis.call('PEXPIRE', file_key(blast, digest), 1 + (tonumber(string.sub(digest, 1, 4), 16) or 0) % 2000)
end

local function has_files(blast)
  if filed[blast] == nil then filed[blast] = redis.call('EXISTS', files_key(blast)) == 1 end
  return filed[blast]
end

local function need_less(key, mark, digest)
  if redis.call('HINCRBY', key, mark .. digest, -1) > 0 then return true end
  redis.call('HDEL', key, mark .. digest)
  return redis.call('HEXISTS', key, (mark == '#' and '+' or '#') .. digest) == 1
end

-- Let go of files that something needed, jobs ("#") or dead letters ("+"); an account with nothing in it is listed no more.
local function release(blast, mark, digests)
  local key = files_key(blast)
  for digest in string.gmatch(digests, '%S+') do
    if not need_less(key, mark, digest) then drop_file(blast, digest) end
  end
  if redis.call('EXISTS', key) == 0 then
    redis.call('SREM', C .. ':filed', blast)
    filed[blast] = false
  end
end

-- The note of an earlier run, left by a sender of an earlier version, makes room for this one's.
local function need_files(blast, index, needs)
  local key = files_key(blast)
  local before = redis.call('HGET', key, index)
  if before == needs then return end
  redis.call('HSET', key, index, needs)
  for digest in string.gmatch(needs, ' (%S+)') do
    redis.call('HINCRBY', key, '#' .. digest, 1)
    redis.call('PERSIST', file_key(blast, digest))
  end
  if before then release(blast, '#', string.match(before, '^%d+ (.*)$')) end
  if filed[blast] ~= 'listed' then
    redis.call('PERSIST', key)
    redis.call('SADD', C .. ':filed', blast)
    filed[blast] = 'listed'
  end
end

-- The digests of a field that goes with this; nil where it is not there, or of another run.
local function take_needs(key, field, run)
  local kept = redis.call('HGET', key, field)
  local of_run, digests = string.match(kept or '', '^(%d+) (.*)$')
  if not kept or (run and tonumber(of_run) ~= tonumber(run)) then return nil end
  redis.call('HDEL', key, field)
  return digests, of_run
end

-- A job has ended for good (`run` nil: whatever its run is). Returns whether anything was noted of it.
local function free_files(job_id, run)
  local blast, index = string.match(job_id, '^([^:]+):(%d+):')
  if not blast or not has_files(blast) then return false end
  local digests = take_needs(files_key(blast), index, run)
  if digests then release(blast, '#', digests) end
  return digests ~= nil
end

-- A job has failed: its files stay until the log has them (`forget_files`), which keeps dead letters.
local function bury_files(job_id, run)
  local blast, index = string.match(job_id, '^([^:]+):(%d+):')
  if not blast or not has_files(blast) then return end
  local key = files_key(blast)
  local digests, of_run = take_needs(key, index, run)
  if not digests then return end
  redis.call('HSET', key, '!' .. of_run .. ':' .. index, of_run .. ' ' .. digests)
  for digest in string.gmatch(digests, '%S+') do
    redis.call('HINCRBY', key, '+' .. digest, 1)
    need_less(key, '#', digest)
    if redis.call('HEXISTS', key, '#' .. digest) == 0 then redis.call('PEXPIRE', file_key(blast, digest), FILES_KEPT_MS) end
  end
end

-- Whether all jobs of a blast ended long ago, by its counts: what jobs of it are still noted to need was lost with them.
local function ended_long_ago(blast, now_ms)
  local ended_at = redis.call('HGET', C .. ':blast:' .. blast, 'ended_at')
  return ended_at and now_ms - tonumber(ended_at) > 3600000
end

-- Free what jobs of such a blast are noted to need, a page of the account from a cursor on. Returns the cursor of the next
-- page, and how many jobs these were. With the last page what dead letters need is left, and gets an expiry.
local function free_lost(blast, cursor, most, mend)
  local key, lost = files_key(blast), 0
  local page = redis.call('HSCAN', key, cursor, 'COUNT', most)
  for i = 1, #page[2], 2 do
    if string.find(page[2][i], '^%d+$') then
      lost = lost + 1
      local digests = mend and take_needs(key, page[2][i])
      if digests then release(blast, '#', digests) end
    end
  end
  if mend and page[1] == '0' then
    redis.call('PEXPIRE', key, FILES_KEPT_MS)
    redis.call('SREM', C .. ':filed', blast)
  end
  return page[1], lost
end
