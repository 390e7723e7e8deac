-- When jobs may start, by the limit of the channel and by those of their domains or recipients. A start may come as late as
-- its sender reports. Without a burst, the starts that a period allows must together take longer than the period plus that
-- lateness. So as long as a late start matters, each start takes its share of the greatest lateness.
local now, ahead, gap, channel, has_permit
local job_limits = {}

-- The channel's limit stores the last start granted, so that a new rate holds from the next start on. A start farther
-- ahead than any that is granted was written before the server's clock was set back. The names of other limits are not
-- empty. A rate set at run time says how many starts it allows per period.
local function allow_starts(at_us, ahead_us, own_gap, own_starts, late)
  local config = redis.call('HMGET', C .. ':config', 'gap_us', 'rate', 'permit')
  has_permit = config[3] == '1'
  now, ahead, gap = at_us, ahead_us, tonumber(config[1] or own_gap)
  channel = { name = '', gap = gap, late = gap > 0 and late or 0 }
  channel.starts = tonumber(config[1] and (string.match(config[2] or '', '^%d+') or 1) or own_starts)
end

local function channel_start()
  if not channel.last then
    channel.last = tonumber(redis.call('GET', C .. ':limit') or 0)
    if channel.last > now + ahead + 1000000 then channel.last = 0 end
    channel.latest = latest_start(channel.name, 0, now)
  end
  local at = math.max(channel.last + gap + math.ceil(channel.latest / channel.starts), now)
  if at > now + ahead then return nil, at end
  return at
end

local function charge_channel(at)
  channel.last = at
  redis.call('SET', C .. ':limit', int(at), 'PX', 3600000)
  if channel.late == 0 then return end
  channel.latest = math.max(channel.latest, channel.late)
  note_late_start(channel, at)
end

-- The limit of a domain or recipient is a GCRA with `burst` free starts after a rest; jobs beyond it wait in its list.
-- Where the channel's limit spaces starts too, a start may be as late as that limit allows.
local function job_limit(text)
  local name, own_gap, burst, starts, late, lane = string.match(text, '^(%S+) (%d+) (%d+) (%d+) (%d+) (%a)$')
  if not name then return nil end
  local o = job_limits[name]
  if not o then
    o = { name = name, gap = tonumber(own_gap), burst = tonumber(burst), starts = tonumber(starts) }
    o.late = gap > 0 and channel.late or tonumber(late)
    o.latest = o.burst == 1 and latest_start(name, o.late, now) or 0
    o.charged = limit_charged(name, o.gap, o.burst, now)
    o.first = tonumber(redis.call('ZRANGE', limit_list(name), 0, 0, 'WITHSCORES')[2])
    if o.first then set_limit_pace(name, own_gap .. ' ' .. burst, now) end
    job_limits[name] = o
  end
  return o, RANKS[lane]
end

-- A job stays behind waiting jobs of its own lane and of earlier lanes; a released job only behind those of earlier lanes.
local function is_behind(o, rank, released)
  if not o.first then return false end
  local waiting = math.floor(o.first / LANE_SPAN)
  return waiting < rank or (waiting == rank and not released)
end

-- With a burst, the limit counts from the latest time of the start: so a late start cannot come closer to the next one.
local function charge_limit(o, at)
  if o.burst > 1 then
    o.charged = math.max(o.charged, at + o.late) + o.gap
    return
  end
  o.charged = math.max(o.charged, at) + o.gap + math.ceil(o.latest / o.starts)
  if o.late > 0 then note_late_start(o, at) end
end

local function next_free(o)
  return o.charged - (o.burst - 1) * o.gap
end

-- Return the earliest start of a job, and how it is spaced; nil, and why, if none is free. Check the job's own limit first,
-- then the channel's; charge them only if both allow the start.
local function earliest(limit, released)
  local at, o, rank = now, nil, nil
  if limit ~= '' then o, rank = job_limit(limit) end
  if o then
    at = math.max(next_free(o), now)
    if at > now + ahead or is_behind(o, rank, released) then return nil, 'beyond', o end
  end
  if gap > 0 then
    local free, when = channel_start()
    if not free then return nil, 'limited' .. int(when - now - ahead), o end
    at = math.max(at, free)
    charge_channel(at)
  end
  if o then
    charge_limit(o, at)
    redis.call('SET', C .. ':limit:' .. o.name, int(o.charged), 'PX', int(math.ceil((o.charged - now) / 1000) + 1000))
  end
  return at, gap > 0 and 's' or (o and 'o' or 'g'), o
end
