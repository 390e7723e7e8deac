#!lua flags=allow-oom
-- Count a permanent refusal, and decide whether it concerns the recipient, or is one of a run of equal refusals in which a
-- server refuses every recipient.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS suppressions
-- ARGV  1 server · 2 what equal refusals have in common · 3 address · 4 the reason to suppress the address, "" for none ·
--       5 recipients that make a run, 0 to check a refusal that was counted before · 6 "1" if no other server is left: a run
--       then pauses the channel, also one that was stopped while others were left · 7 the reason of the pause · 8 ms to
--       keep an open run · 9 ms to keep a stopped run · 10 ms after its last recipient at which an open run is over for a check ·
--       11 head of the event batch
-- Result  "hold" it may be one of a run · "stop" it completes a run · "back" its run paused the channel ·
--         "aside" its run set the server aside · "final" it counts
-- A run is `C:refused:<server>`: `alike`, `count` of recipients, `at` (ms) of the last, `stopped`, `aside` if other servers
-- were left, and each recipient ("@" + address) with the reason to suppress it. An acceptance ends it (`clear_refusals`).
-- After a resume, a recipient that was refused before the pause fails when it is refused again. Refusals that suppress
-- their recipient count immediately, since an operator has checked the server: so a list of dead addresses ends.
-- A check while the channel is paused, for any reason, gets "back": another server may refuse as well.
-- A run that stops lifts the suppressions that it had caused, where its refusals came too slowly to be held.
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
  pause_channel(ARGV[7], ARGV[11])
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
if alone then pause_channel(ARGV[7], ARGV[11]) else redis.call('HSET', key, 'aside', 1) end
redis.call('PEXPIRE', key, ARGV[9])
return 'stop'
