#!lua flags=allow-oom
-- Weigh a refusal for good: is it the recipient's, or one of a run in which a server refuses everybody alike?
--
-- KEYS  1 the partition's bell · 2 a key that never exists
-- PARTS suppressions
-- ARGV  1 server · 2 what refusals that are alike have in common · 3 address · 4 the reason by which the address would be
--       suppressed, "" where it would not · 5 recipients that make a run, 0 to look only, as often as one likes · 6 "1" where no other server is
--       left: then a run pauses the channel, one that was stopped while others were left too · 7 the reason of the pause · 8 ms that an open run is remembered · 9 ms that
--       a run that was stopped is · 10 ms since its last recipient after which an open run is over for who looks
-- Result  "hold" it may be one of a run · "stop" it completes one · "back" it is one of a run that paused the channel ·
--         "aside" of one for which the server is to be left alone · "final" it counts
-- A run is `C:refused:<server>`: what is alike, `count` of recipients, `at` (ms) when the last came, `stopped` once it was, `aside` where other servers
-- were left, and each recipient ("@" + address) with the reason by which it would be suppressed. An acceptance ends it
-- (`clear_refusals`). After a resume, what was refused before the pause counts when it is refused again; and so do verdicts on
-- recipients at once, since somebody has looked at them: a list of dead addresses is finished.
-- Who looks while the channel is paused, for whatever reason, is told "back": another server may be at it too.
-- What the run had suppressed, where its refusals came too slowly to be held, is lifted.
-- Safe to repeat: a recipient is counted once.

make_wake_stream()
local key, alike, address, suppression = C .. ':refused:' .. ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local most, alone = tonumber(ARGV[5]), ARGV[6] == '1'
local field = '@' .. address
local paused = redis.call('EXISTS', C .. ':paused') == 1
local v = redis.call('HMGET', key, 'alike', 'stopped', 'aside', field)
if v[1] ~= alike then
  if most == 0 then return paused and 'back' or 'final' end
  redis.call('DEL', key)
  redis.call('HSET', key, 'alike', alike, 'count', 0, 'at', 0)
  v = {}
end
local stopped, aside, known = v[2], v[3], v[4]

if stopped and aside and alone then
  redis.call('HDEL', key, 'aside')
  redis.call('SET', C .. ':paused', ARGV[7])
  aside, paused = nil, true
end
if most == 0 and paused then return 'back' end
if stopped and (aside or paused) then
  redis.call('HSET', key, field, suppression)
  return aside and 'aside' or 'back'
end
if most == 0 and not stopped and now_us() / 1000 - tonumber(redis.call('HGET', key, 'at')) < tonumber(ARGV[10]) then
  return 'hold'
end
if most == 0 or (stopped and (known or suppression ~= '')) then return 'final' end

local count = tonumber(redis.call('HGET', key, 'count'))
if not known then
  redis.call('HSET', key, field, suppression)
  redis.call('HSET', key, 'at', int(now_us() / 1000))
  count = redis.call('HINCRBY', key, 'count', 1)
end
if count < most then
  redis.call('PEXPIRE', key, ARGV[stopped and 9 or 8])
  return 'hold'
end

local kept, now_ms = redis.call('HGETALL', key), math.floor(now_us() / 1000)
for i = 1, #kept, 2 do
  local reason = kept[i + 1]
  if string.sub(kept[i], 1, 1) == '@' and reason ~= '' then
    lift_suppressions(string.sub(kept[i], 2), now_ms, function(one) return one[2] == 'bounce' and one[3] == reason end)
  end
end
redis.call('HSET', key, 'stopped', 1, 'count', 0)
if alone then redis.call('SET', C .. ':paused', ARGV[7]) else redis.call('HSET', key, 'aside', 1) end
redis.call('PEXPIRE', key, ARGV[9])
return 'stop'
