#!lua flags=allow-oom
-- List what a sender holds, for one that lost a reply or finds entries without a task.
--
-- KEYS  the channel's hash tag
-- ARGV  1 sender · 2 "buf" or "tx" · 3 most entries a stream
-- Result  {stream, id, delivery count, packed job, …}
-- Reads only.

local out = {}

local function list(stream)
  local rows = redis.pcall('XPENDING', stream, GROUP, '-', '+', ARGV[3], ARGV[1] .. ':' .. ARGV[2])
  if rows.err then return end
  for _, row in ipairs(rows) do
    local entry = redis.call('XRANGE', stream, row[1], row[1])[1]
    if entry then
      local n = #out
      out[n + 1], out[n + 2], out[n + 3], out[n + 4] = stream, row[1], row[4], entry[2][2]
    end
  end
end

list(C .. ':jobs:high')
list(C .. ':jobs:normal')
list(C .. ':jobs:due')
for _, blast in ipairs(redis.call('SMEMBERS', C .. ':streams')) do list(C .. ':jobs:bulk:' .. blast) end
return out
