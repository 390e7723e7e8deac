#!lua flags=allow-oom
-- Check members of an index against what they stand for; mend what is wrong.
--
-- KEYS  the channel's hash tag
-- PARTS files
-- ARGV  1 index: "ring", "starts", "streams", "parked", "later", "later:jobs", "filed" or
--       "file" ("<blast>:<digest>") · 2 "1" to mend, "0" to look only · 3 … members
-- Result  how many stand for nothing
-- Mended: such a member goes; but a job that is kept and has no time (`later:jobs`) is due at once, and a file that
-- nothing needs goes within the hour.
-- Safe to repeat.

local index, mend = ARGV[1], ARGV[2] == '1'
local key = C .. ':' .. index

local checks = {
  ring = function(stream) return redis.call('EXISTS', stream) == 1 end,
  starts = function(stream) return redis.call('EXISTS', stream) == 1 end,
  streams = function(blast) return redis.call('EXISTS', C .. ':jobs:bulk:' .. blast) == 1 end,
  parked = function(member)
    local stream, id = string.match(member, '^(%S+) (%S+)$')
    return stream and holder(stream, id) == '~retry'
  end,
  later = function(job_id) return redis.call('HEXISTS', C .. ':later:jobs', job_id) == 1 end,
  filed = function(blast) return redis.call('EXISTS', files_key(blast)) == 1 end,
  file = function(name)
    local blast, digest = string.match(name, '^([^:]+):(.+)$')
    local needed = redis.call('HMGET', files_key(blast), '#' .. digest, '+' .. digest)
    return needed[1] or needed[2] or redis.call('PTTL', file_key(blast, digest)) ~= -1
  end,
  ['later:jobs'] = function(job_id) return redis.call('ZSCORE', C .. ':later', job_id) end,
}

local wrong = 0
for i = 3, #ARGV do
  local member = ARGV[i]
  if not checks[index](member) then
    wrong = wrong + 1
    if mend then
      if index == 'streams' or index == 'filed' then
        redis.call('SREM', key, member)
      elseif index == 'later:jobs' then
        redis.call('ZADD', C .. ':later', int(now_us()), member)
      elseif index == 'file' then
        redis.call('PEXPIRE', C .. ':file:' .. member, 3600000)
      else
        redis.call('ZREM', key, member)
      end
    end
  end
end
if wrong > 0 and mend then ring_bell() end
return wrong
