-- Limits of domains and recipients. A job beyond its limit waits in the limit's list, `limits:jobs:<name>`, a zset of job
-- ids by place: by lane, then by arrival. The job itself is in `later:jobs`. `limits` holds "<µs between two starts>
-- <burst>" of each limit that has a list. `limits:high` and `limits:due` hold the names of these limits by the time of
-- their next free start: the first those whose list begins with `high`, the second the others. Only jobs that are begun
-- are charged to a limit (`limit:<name>`, a GCRA).
local LANE_SPAN, RANKS = 1e15, { h = 0, n = 1, b = 2 }
local FARTHEST_START = 12000000

local function limit_list(name)
  return C .. ':limits:jobs:' .. name
end

local function is_released(stream)
  return stream == RELEASED or stream == RELEASED_HIGH
end

-- Return when all of the limit's burst is free again, in µs. A time farther ahead than any start that is granted was written
-- before the clock was set back or the limit changed, or by a version that booked starts. Then the burst counts as used now.
local function limit_charged(name, gap, burst, now)
  local key = C .. ':limit:' .. name
  local charged = tonumber(redis.call('GET', key) or 0)
  if charged <= now + burst * gap + FARTHEST_START then return charged end
  redis.call('SET', key, int(now + burst * gap), 'PX', int(math.ceil(burst * gap / 1000) + 1000))
  return now + burst * gap
end

-- Return by how much starts of a limit may be late, by the recorded latenesses that still matter.
local function latest_start(name, late, now)
  for _, known in ipairs(redis.call('ZRANGEBYSCORE', C .. ':limits:late:' .. name, '(' .. int(now), '+inf')) do
    late = math.max(late, tonumber(known))
  end
  return late
end

local function note_late_start(limit, at)
  local key, period = C .. ':limits:late:' .. limit.name, limit.starts * limit.gap
  redis.call('ZADD', key, int(at + period + limit.late), int(limit.late))
  redis.call('PEXPIRE', key, int(math.ceil((period + 2 * FARTHEST_START) / 1000)))
end

local function limit_pace(name)
  local gap, burst = string.match(redis.call('HGET', C .. ':limits', name) or '0 1', '^(%d+) (%d+)$')
  return tonumber(gap), tonumber(burst)
end

-- Update the indexes of a limit after its list has changed; `fresh` computes its next start again.
local function index_limit(name, now, fresh)
  local first = redis.call('ZRANGE', limit_list(name), 0, 0, 'WITHSCORES')
  local mine, other = C .. ':limits:due', C .. ':limits:high'
  if not first[1] then
    redis.call('ZREM', mine, name)
    redis.call('ZREM', other, name)
    redis.call('HDEL', C .. ':limits', name)
    return
  end
  if tonumber(first[2]) < LANE_SPAN then mine, other = other, mine end
  redis.call('ZREM', other, name)
  if fresh or not redis.call('ZSCORE', mine, name) then
    local gap, burst = limit_pace(name)
    redis.call('ZADD', mine, int(limit_charged(name, gap, burst, now) - (burst - 1) * gap), name)
  end
end

local function set_limit_pace(name, pace, now)
  if redis.call('HGET', C .. ':limits', name) == pace then return end
  redis.call('HSET', C .. ':limits', name, pace)
  index_limit(name, now, true)
end

-- Count a blast's jobs that wait for limits; they still count as queued or retrying.
local function count_limited(job_id, by)
  count(string.match(job_id, '^[^:]+'), 'limited', by)
end

-- Put a job into its limit's list: at its old place, or after all jobs of its lane.
local function wait_for_limit(name, lane, job_id, raw, place)
  place = place or RANKS[lane] * LANE_SPAN + redis.call('INCR', C .. ':limits:order')
  redis.call('ZADD', limit_list(name), int(place), job_id)
  redis.call('HSET', C .. ':later:jobs', job_id, 'w' .. lane .. name .. ' ' .. raw)
end

-- Read a value of `later:jobs`: how the job waits ("s" scheduled, "d" deferred, "w" for its limit; "b" is of a version that
-- booked starts), its lane's first letter, the packed job, and the name of the limit that it waits for.
local function read_later(kept)
  local kind, lane = string.sub(kept, 1, 1), string.sub(kept, 2, 2)
  if kind ~= 'w' then return kind, lane, string.sub(kept, 3) end
  local blank = string.find(kept, ' ', 3, true)
  return kind, lane, string.sub(kept, blank + 1), string.sub(kept, 3, blank - 1)
end

-- Take a job that waits for its time or its limit; return how it waited, its lane and its bytes, nil if it does not wait.
local function take_later(job_id, now)
  local kept = redis.call('HGET', C .. ':later:jobs', job_id)
  redis.call('ZREM', C .. ':later', job_id)
  if not kept then return nil end
  redis.call('HDEL', C .. ':later:jobs', job_id)
  local kind, lane, raw, name = read_later(kept)
  if name then
    redis.call('ZREM', limit_list(name), job_id)
    index_limit(name, now)
    count_limited(job_id, -1)
  end
  return kind, lane, raw
end
