-- Files of jobs have their own keys, `C:file:<blast>:<digest>`, so that no script reads them. `C:files:<blast>` records who
-- needs them: "<index>" -> "<run> <digest> …" for a job that has not ended, "!<run>:<index>" -> the same for a dead letter
-- that the log has not stored, "#<digest>" and "+<digest>" how many jobs and dead letters need a file. A file is freed with
-- the last of them. It has an expiry only while no job waits for it. `C:filed` lists the blasts that have such a hash.
local FILES_KEPT_MS = 30 * 86400 * 1000
local filed = {}

local function files_key(blast)
  return C .. ':files:' .. blast
end

local function file_key(blast, digest)
  return C .. ':file:' .. blast .. ':' .. digest
end

-- Freeing hundreds of files takes tens of milliseconds, so they expire, and the server frees them. It frees all expired keys
-- that it finds in one go, so each file gets its own moment within two seconds.
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

-- Release files that jobs ("#") or dead letters ("+") needed; an empty hash is removed from `C:filed`.
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

-- Record the files that a job needs, in place of a record of an earlier run that a sender of an earlier version left.
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

-- Remove a record and return its digests and run; nil if it does not exist, or is of another run.
local function take_needs(key, field, run)
  local kept = redis.call('HGET', key, field)
  local of_run, digests = string.match(kept or '', '^(%d+) (.*)$')
  if not kept or (run and tonumber(of_run) ~= tonumber(run)) then return nil end
  redis.call('HDEL', key, field)
  return digests, of_run
end

-- Free the files of a job that has ended (`run` nil: of any run). Return whether it had a record.
local function free_files(job_id, run)
  local blast, index = string.match(job_id, '^([^:]+):(%d+):')
  if not blast or not has_files(blast) then return false end
  local digests = take_needs(files_key(blast), index, run)
  if digests then release(blast, '#', digests) end
  return digests ~= nil
end

-- Keep the files of a failed job until the log, which keeps dead letters, has stored them (`forget_files`).
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

-- Return whether all jobs of a blast ended long ago, by its counts: jobs that still have a record were lost.
local function ended_long_ago(blast, now_ms)
  local ended_at = redis.call('HGET', C .. ':blast:' .. blast, 'ended_at')
  return ended_at and now_ms - tonumber(ended_at) > 3600000
end

-- Free the files of lost jobs of such a blast, one page of its hash from a cursor on. Return the cursor of the next page,
-- and the number of these jobs. After the last page only the records of dead letters are left, and get an expiry.
local function free_lost(blast, cursor, most, repair)
  local key, lost = files_key(blast), 0
  local page = redis.call('HSCAN', key, cursor, 'COUNT', most)
  for i = 1, #page[2], 2 do
    if string.find(page[2][i], '^%d+$') then
      lost = lost + 1
      local digests = repair and take_needs(key, page[2][i])
      if digests then release(blast, '#', digests) end
    end
  end
  if repair and page[1] == '0' then
    redis.call('PEXPIRE', key, FILES_KEPT_MS)
    redis.call('SREM', C .. ':filed', blast)
  end
  return page[1], lost
end
