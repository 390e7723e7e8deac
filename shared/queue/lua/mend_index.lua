#!lua flags=allow-oom
-- Check members of an index against what they stand for; mend what is wrong.
--
-- KEYS  the channel's hash tag
-- ARGV  1 index: "ring", "starts", "streams", "parked", "later" or "later:jobs" · 2 "1" to mend, "0" to look only · 3 … members
-- Result  how many stand for nothing
-- Mended: such a member goes; but a job that is kept and has no time (`later:jobs`) is due at once.
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
  ['later:jobs'] = function(job_id) return redis.call('ZSCORE', C .. ':later', job_id) end,
}

local wrong = 0
for i = 3, #ARGV do
  local member = ARGV[i]
  if not checks[index](member) then
    wrong = wrong + 1
    if mend then
      if index == 'streams' then
        redis.call('SREM', key, member)
      elseif index == 'later:jobs' then
        redis.call('ZADD', C .. ':later', int(now_us()), member)
      else
        redis.call('ZREM', key, member)
      end
    end
  end
end
if wrong > 0 and mend then ring_bell() end
return wrong
