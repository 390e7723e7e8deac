#!lua
-- Take, renew or give up the lease of a mailbox, so that only one process reads it at a time.
--
-- KEYS  1 the lease
-- ARGV  1 the holder, unique to a process · 2 how long it holds, in ms; 0 gives it up
-- Result  1 if the holder has the lease, else 0; safe to repeat

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
