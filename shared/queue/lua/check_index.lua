#!lua flags=allow-oom
-- Check that the members of an index refer to something that exists; repair what is wrong.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS files, limits
-- ARGV  1 index: "ring", "starts", "streams", "parked", "later", "later:jobs", "limits", "limits:high", "limits:due",
--       "limits:jobs:<name>", "places", "filed" or "file" ("<blast>:<digest>") · 2 "1" to repair, "0" to check only ·
--       3 … members
-- Result  {how many members are wrong, how many were checked}: it ends early after about a megabyte, because Redis is
--         blocked meanwhile, and is called again with the rest
-- Repair: such a member is removed. But a stored job without a time (`later:jobs`) becomes due immediately, or gets its
-- place in its limit's list; a limit gets its turns; a file that nothing needs expires within the hour.
-- Safe to repeat.

local index, repair = ARGV[1], ARGV[2] == '1'
local key = C .. ':' .. index
local MOST_BYTES, bytes = 1000000, 0

-- Return a stored job, nil if it is not stored.
local function stored(job_id)
  local kept = redis.call('HGET', C .. ':later:jobs', job_id)
  bytes = bytes + #(kept or '')
  return kept or nil
end

local checks = {
  ring = function(stream) return redis.call('EXISTS', stream) == 1 end,
  starts = function(stream) return redis.call('EXISTS', stream) == 1 end,
  streams = function(blast) return redis.call('EXISTS', C .. ':jobs:bulk:' .. blast) == 1 end,
  parked = function(member)
    local stream, id = string.match(member, '^(%S+) (%S+)$')
    return stream and holder(stream, id) == '~retry'
  end,
  later = function(job_id) return redis.call('HEXISTS', C .. ':later:jobs', job_id) == 1 end,
  places = function(job_id)
    local stream, id = string.match(redis.call('HGET', key, job_id) or '', '^(%S+) (%S+)$')
    local entry = stream and redis.call('XRANGE', stream, id, id)[1]
    bytes = bytes + (entry and #entry[2][2] or 0)
    return entry and read_id(entry[2][2]) == job_id
  end,
  filed = function(blast) return redis.call('EXISTS', files_key(blast)) == 1 end,
  file = function(name)
    local blast, digest = string.match(name, '^([^:]+):(.+)$')
    local needed = redis.call('HMGET', files_key(blast), '#' .. digest, '+' .. digest)
    return needed[1] or needed[2] or redis.call('PTTL', file_key(blast, digest)) ~= -1
  end,
  ['later:jobs'] = function(job_id)
    if redis.call('ZSCORE', C .. ':later', job_id) then return true end
    local kept = stored(job_id)
    if not kept then return true end -- it became due after it was listed
    local _, _, _, name = read_later(kept)
    return name and redis.call('ZSCORE', limit_list(name), job_id) and redis.call('HEXISTS', C .. ':limits', name) == 1
  end,
  limits = function(name)
    local first = redis.call('ZRANGE', limit_list(name), 0, 0, 'WITHSCORES')[2]
    local high, due = redis.call('ZSCORE', C .. ':limits:high', name), redis.call('ZSCORE', C .. ':limits:due', name)
    if not first then return redis.call('HEXISTS', key, name) == 0 end
    if tonumber(first) < LANE_SPAN then return high and not due end
    return due and not high
  end,
  ['limits:high'] = function(name) return redis.call('HEXISTS', C .. ':limits', name) == 1 end,
  ['limits:due'] = function(name) return redis.call('HEXISTS', C .. ':limits', name) == 1 end,
}

local of_limit = string.match(index, '^limits:jobs:(%S+)$')
if of_limit then
  checks[index] = function(job_id)
    local _, _, _, name = read_later(stored(job_id) or '')
    return name == of_limit
  end
end

-- List a stored job that has no place: one that waited for its limit waits for it again, any other is due immediately.
local function list_again(job_id)
  local _, lane, raw, name = read_later(stored(job_id))
  if not name then
    redis.call('ZADD', C .. ':later', int(now_us()), job_id)
    return
  end
  wait_for_limit(name, lane, job_id, raw, redis.call('ZSCORE', limit_list(name), job_id))
  if redis.call('HEXISTS', C .. ':limits', name) == 0 then redis.call('HSET', C .. ':limits', name, '0 1') end
  index_limit(name, now_us())
end

local wrong, checked = 0, 0
for i = 3, #ARGV do
  if bytes > MOST_BYTES then break end
  local member = ARGV[i]
  checked = checked + 1
  if not checks[index](member) then
    wrong = wrong + 1
    if repair then
      if index == 'streams' or index == 'filed' then
        redis.call('SREM', key, member)
      elseif index == 'later:jobs' then
        list_again(member)
      elseif index == 'places' then
        redis.call('HDEL', key, member)
      elseif index == 'limits' then
        index_limit(member, now_us())
      elseif index == 'file' then
        redis.call('PEXPIRE', C .. ':file:' .. member, 3600000)
      else
        redis.call('ZREM', key, member)
      end
    end
  end
end
if wrong > 0 and repair and of_limit then index_limit(of_limit, now_us()) end
if wrong > 0 and repair then wake_senders() end
return { wrong, checked }
