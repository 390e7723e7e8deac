#!lua flags=allow-oom
-- Make a group on a stream of events, from its very start: `$` would lose what was added before. In a full Redis
-- too, or the events that fill it could never be read.
--
-- KEYS  the stream
-- ARGV  1 group
-- Result  1 if it was made, 0 if it was there
-- Safe to repeat.

local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if type(made) == 'table' and made.err then
  if string.find(made.err, 'BUSYGROUP', 1, true) then return 0 end
  return made
end
return 1
