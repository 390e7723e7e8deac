#!lua flags=allow-oom
-- Create a consumer group on a stream of events, from the start of the stream: `$` would skip the events added before.
-- It also runs when Redis is full; otherwise the events that fill it could never be read.
--
-- KEYS  the stream
-- ARGV  1 group
-- Result  1 if it was created, 0 if it existed
-- Safe to repeat.

local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if type(made) == 'table' and made.err then
  if string.find(made.err, 'BUSYGROUP', 1, true) then return 0 end
  return made
end
return 1
