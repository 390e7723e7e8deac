-- Return whether a job of a blast may be cancelled by itself, or have a stall: what is recorded of it has to be changed when
-- it ends. More records than can be read here may be of any blast.
local MOST_RECORDS = 1000
local function has_records(blast)
  for _, name in ipairs({ ':cancels', ':stalls' }) do
    if redis.call('HLEN', C .. name) > MOST_RECORDS then return true end
    for _, job_id in ipairs(redis.call('HKEYS', C .. name)) do
      if string.sub(job_id, 1, #blast + 1) == blast .. ':' then return true end
    end
  end
  return false
end

-- Ends of untried jobs of one blast, gathered into `SweptRanges`. `swept` are the packed fields of such an event from its
-- status to its message.
local function make_ranges(blast, status, swept, now_ms, events)
  local channel = channel_name()
  local v = redis.call('HMGET', C .. ':blast:' .. blast, 'scheduled', 'scheduled_whole')
  local scheduled = v[2] and math.max(tonumber(v[1] or 0), 0) or 0 -- how many of these are left
  local first, last, list, range_run, untried = nil, nil, {}, nil, 0
  local self = {}

  function self.leave_scheduled(n)
    local left = math.min(n, scheduled)
    if left > 0 then count(blast, 'scheduled', -left) end
    scheduled = scheduled - left
  end

  local function end_range()
    if first then list[#list + 1] = '\146' .. cmsgpack.pack(first, last) end
    first = nil
  end

  local function end_event()
    end_range()
    local n = #list
    if n == 0 then return end
    local ranges = '\220' .. string.char(math.floor(n / 256), n % 256) .. table.concat(list)
    events[#events + 1] = '\153' .. cmsgpack.pack('swept_ranges', now_ms) .. swept .. cmsgpack.pack(blast, channel, range_run) .. ranges
    list = {}
  end

  -- Add the jobs with the indexes from `from` to `to`, which come after those added before.
  function self.add(from, to, run)
    if run ~= range_run then
      end_event()
      range_run = run
    end
    if first and from == last + 1 then
      last = to
    else
      end_range()
      first, last = from, to
    end
    untried = untried + to - from + 1
  end

  -- Emit the event, and count the jobs.
  function self.finish()
    end_event()
    if untried == 0 then return end
    count(blast, status, untried)
    count_channel(status, untried)
    self.leave_scheduled(untried)
  end

  return self
end
