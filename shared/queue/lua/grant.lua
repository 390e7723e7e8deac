#!lua flags=allow-oom
-- Grant starts of jobs whose channel has its queue in several partitions: all of them share these limits.
--
-- KEYS  1 the stream of wake-ups of the limits' slot, which nothing reads · 2 a key that never exists
-- PARTS limits, starts
-- ARGV  1 sender · 2 sequence · 3 µs between two starts, 0 for no limit (a rate set at run time takes precedence) · 4 µs that
--       a start may be granted ahead · 5 starts per period at the spacing of ARGV 3 · 6 µs: how much later than the gap
--       allows a start under the channel's limit may come · 7 … the limit of each job's domain or recipient, as `begin`
--       receives it
-- Result  one word per job, joined by commas: "g" may start immediately · "s<µs>" after this time and not much later ·
--         "o<µs>" the same where only its own limit spaces starts · "limited<µs>" no start is free for this time ·
--         "beyond" its own limit. A job with a limit of its own has "/<µs>" after the word: when its next start is free
-- `begin` gets the words, and does not ask limits itself. What it does not use lapses.
-- A job of an earlier lane that is refused has a claim to its limit until shortly after the next start is free: meanwhile
-- jobs of later lanes, in any partition, are refused (`limits:claims:<name>`, by lane).
-- A crash before: nothing was granted. A lost reply: the same words again; by then the starts may be too late to be used.

make_wake_stream()
local sender, sequence, CLAIM = ARGV[1], ARGV[2], 500000
local kept = replayed(sender, 'grant', sequence)
if kept then return kept end
local at_us = now_us()
allow_starts(at_us, tonumber(ARGV[4]), tonumber(ARGV[3]), tonumber(ARGV[5]), tonumber(ARGV[6]))

local function claims_key(o)
  return C .. ':limits:claims:' .. o.name
end

local function is_claimed(o, rank)
  if o.claimed == nil then
    o.claimed = RANKS.b
    for _, lane in ipairs(redis.call('ZRANGEBYSCORE', claims_key(o), '(' .. int(at_us), '+inf')) do
      o.claimed = math.min(o.claimed, tonumber(lane))
    end
  end
  return o.claimed < rank
end

local function claim(o, rank)
  if rank >= RANKS.b then return end
  local key, ends = claims_key(o), math.max(next_free(o), at_us) + CLAIM
  redis.call('ZADD', key, int(ends), rank)
  redis.call('PEXPIRE', key, int(math.ceil((ends - at_us) / 1000) + 1000))
  o.claimed = math.min(o.claimed, rank)
end

local function grant(limit)
  local o, rank = job_limit(limit)
  local at, how
  if o and is_claimed(o, rank) then how = 'beyond' else at, how = earliest(limit, true) end
  if how == 'beyond' then claim(o, rank) end
  local word = how
  if at and how ~= 'g' then word = how .. int(math.max(0, at - at_us)) end
  return o and word .. '/' .. int(math.max(0, next_free(o) - at_us)) or word
end

local words = {}
for i = 7, #ARGV do words[#words + 1] = grant(ARGV[i]) end
local answer = remember(sender, 'grant', sequence, table.concat(words, ','))
redis.call('PEXPIRE', C .. ':once:' .. sender, ONCE_MS) -- no heartbeat prolongs it in this slot
return answer
