#!lua flags=allow-oom
-- Take entries of the stream `receipts` that no consumer has read, or that have been idle with one that is gone.
-- It also runs when Redis is full; otherwise the receipts that fill it could never be read.
--
-- KEYS  1 the stream
-- ARGV  1 group · 2 consumer · 3 most entries · 4 bytes at which it ends early · 5 idle time in ms after which an entry is
--       taken from its consumer, "" to take new entries
-- Result  a flat list: id, how often it was delivered, then its fields as a list; the id alone is followed by an empty
--         list if the entry was deleted
-- A lost reply: the entries are pending, and are taken again when they have been idle.

local stream, group, consumer, most = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local taken, bytes = {}, 0

local function take(id, deliveries, fields)
  taken[#taken + 1], taken[#taken + 2], taken[#taken + 3] = id, deliveries, fields
  for i = 2, #fields, 2 do bytes = bytes + #fields[i] end
end

local made = redis.pcall('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
if type(made) == 'table' and made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
if ARGV[5] == '' then
  while #taken < 3 * most and bytes < tonumber(ARGV[4]) do
    local read = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', 1, 'STREAMS', stream, '>')
    if not read then break end
    local entry = read[1][2][1]
    take(entry[1], 1, entry[2])
  end
else
  for _, row in ipairs(redis.call('XPENDING', stream, group, 'IDLE', ARGV[5], '-', '+', most)) do
    if bytes >= tonumber(ARGV[4]) then break end
    local entry = redis.call('XCLAIM', stream, group, consumer, ARGV[5], row[1])[1]
    -- an entry that was deleted is no longer pending after the claim
    if entry then take(entry[1], row[4] + 1, entry[2]) end
  end
end
return taken
