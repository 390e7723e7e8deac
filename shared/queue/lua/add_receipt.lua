#!lua
-- Add what a provider sent, or a bounce mail, to the stream `receipts`, unless that holds too many bytes already.
-- Refused when Redis is full (no allow-oom): the provider, or the mailbox, keeps it and it comes again.
--
-- KEYS  1 the stream · 2 the set of tokens that were accepted, in the same slot; only for a request that has one
-- ARGV  1 bytes that the stream may hold · 2 source · 3 when it was taken, in ms · 4 the whole body or mail
--       5 the request's token, as an integer of 64 bits: sets of those are small · 6 ms for which it is remembered
-- Result  the entry's id, "" if the token was accepted before, nil if the stream is full
-- A repeated call without a token adds a copy, which has no effect on a message, because its receipts are the same.

if KEYS[2] and redis.call('SISMEMBER', KEYS[2], ARGV[5]) == 1 then return '' end
local count = redis.call('XLEN', KEYS[1])
if count > 0 then
  -- exact while the entries are few, since each may be large; sampled when they are many
  local bytes = redis.pcall('MEMORY', 'USAGE', KEYS[1], 'SAMPLES', count < 1000 and 0 or 20)
  if type(bytes) == 'number' and bytes + #ARGV[4] > tonumber(ARGV[1]) then return false end
end
local id = redis.call('XADD', KEYS[1], '*', 'p', ARGV[2], 't', ARGV[3], 'd', ARGV[4])
if KEYS[2] then
  redis.call('SADD', KEYS[2], ARGV[5])
  redis.call('PEXPIRE', KEYS[2], ARGV[6])
end
return id
