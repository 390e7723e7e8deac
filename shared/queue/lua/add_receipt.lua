#!lua
-- Add what providers sent, or bounce mails, to the stream `receipts`, unless that holds too many bytes already.
-- Refused when Redis is full (no allow-oom): the provider, or the mailbox, keeps it and it comes again.
--
-- KEYS  1 the stream · 2 … the set of tokens that were accepted, in the same slot, of each entry that has a token
-- ARGV  1 bytes that the stream may hold · 2 ms for which a token is remembered · then four of each entry: source · when it
--       was taken, in ms · the whole body or mail · its token, as an integer of 64 bits (sets of those are small), or ""
-- Result  a list: of each entry its id, "" if its token was accepted before, nil if the stream is full
-- A repeated call without a token adds a copy, which has no effect on a message, because its receipts are the same.

local stream, most, set = KEYS[1], tonumber(ARGV[1]), 1
local ids, held = {}, 0
local count = redis.call('XLEN', stream)
if count > 0 then
  -- exact while the entries are few, since each may be large; sampled when they are many
  local bytes = redis.pcall('MEMORY', 'USAGE', stream, 'SAMPLES', count < 1000 and 0 or 20)
  held = type(bytes) == 'number' and bytes or 0
end
for i = 3, #ARGV, 4 do
  local body, token, id = ARGV[i + 2], ARGV[i + 3], ''
  if token ~= '' then set = set + 1 end
  if token == '' or redis.call('SISMEMBER', KEYS[set], token) == 0 then
    id = false
    if held == 0 or held + #body <= most then
      id = redis.call('XADD', stream, '*', 'p', ARGV[i], 't', ARGV[i + 1], 'd', body)
      held = held + #body
      if token ~= '' then
        redis.call('SADD', KEYS[set], token)
        redis.call('PEXPIRE', KEYS[set], ARGV[2])
      end
    end
  end
  ids[#ids + 1] = id
end
return ids
