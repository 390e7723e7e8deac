#!lua flags=allow-oom
-- Move entries that were set aside back to the stream `receipts`, whole, so that they are read again.
-- It also runs when Redis is full, because it frees as much as it takes.
--
-- KEYS  1 the stream of entries set aside · 2 the stream, in the same slot
-- ARGV  1 the last id to move · 2 bytes at which it ends early
-- Result  entries moved; 0 if none is left up to that id
-- Safe to repeat. A lost reply: the entries were moved, and the next call moves the following ones.

local moved, bytes = 0, 0
while bytes < tonumber(ARGV[2]) do
  local entry = redis.call('XRANGE', KEYS[1], '-', ARGV[1], 'COUNT', 1)[1]
  if not entry then break end
  local fields = {}
  for i = 1, #entry[2], 2 do
    if entry[2][i] ~= 'id' and entry[2][i] ~= 'why' then
      fields[#fields + 1], fields[#fields + 2] = entry[2][i], entry[2][i + 1]
      bytes = bytes + #entry[2][i + 1]
    end
  end
  if #fields > 0 then redis.call('XADD', KEYS[2], '*', unpack(fields)) end
  redis.call('XDEL', KEYS[1], entry[1])
  moved = moved + 1
end
return moved
