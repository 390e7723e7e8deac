#!lua flags=allow-oom
-- Remove the consumers of a group that hold nothing and have long been idle: each process reads under a name of its own.
--
-- KEYS  1 the stream
-- ARGV  1 group · 2 idle time in ms
-- Result  consumers removed
-- Safe to repeat. A process that was frozen and reads again becomes a consumer again.

local gone = 0
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if consumers.err then return 0 end
for _, consumer in ipairs(consumers) do
  local about = {}
  for i = 1, #consumer, 2 do about[consumer[i]] = consumer[i + 1] end
  if about.pending == 0 and about.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], about.name)
    gone = gone + 1
  end
end
return gone
