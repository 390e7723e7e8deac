#!lua
-- Add what a provider sent, or a bounce mail, to the stream `receipts`, unless that holds too many bytes already.
-- Refused when Redis is full (no allow-oom): the provider, or the mailbox, keeps it and it comes again.
--
-- KEYS  1 the stream
-- ARGV  1 bytes that the stream may hold · 2 source · 3 when it was taken, in ms · 4 the whole body or mail
-- Result  the entry's id, nil if the stream is full
-- A repeated call adds it twice; the second copy has no effect on a message, because its receipts are the same.

local count = redis.call('XLEN', KEYS[1])
if count > 0 then
  -- exact while the entries are few, since each may be large; sampled when they are many
  local bytes = redis.pcall('MEMORY', 'USAGE', KEYS[1], 'SAMPLES', count < 1000 and 0 or 20)
  if type(bytes) == 'number' and bytes + #ARGV[4] > tonumber(ARGV[1]) then return false end
end
return redis.call('XADD', KEYS[1], '*', 'p', ARGV[2], 't', ARGV[3], 'd', ARGV[4])
