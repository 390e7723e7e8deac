#!lua flags=allow-oom
-- Move an entry of the stream `receipts` that cannot be read, whole, to the stream of those set aside.
-- It also runs when Redis is full, because it frees as much as it takes.
--
-- KEYS  1 the stream · 2 the stream of entries set aside, in the same slot
-- ARGV  1 group · 2 id · 3 why · 4 entries that may be set aside · 5 bytes that they may take; the oldest are dropped
-- Result  1 if it was moved, 0 if the entry no longer exists
-- Safe to repeat.

local entry = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
if not entry then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', ARGV[4], '*', 'id', ARGV[2], 'why', ARGV[3], unpack(entry[2]))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
local kept = redis.call('XLEN', KEYS[2])
while kept > 1 do
  local bytes = redis.pcall('MEMORY', 'USAGE', KEYS[2], 'SAMPLES', 0)
  if type(bytes) ~= 'number' or bytes <= tonumber(ARGV[5]) then break end
  kept = kept - math.ceil(kept / 20)
  redis.call('XTRIM', KEYS[2], 'MAXLEN', kept)
end
return 1
