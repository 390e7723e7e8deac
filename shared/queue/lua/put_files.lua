#!lua
-- Store files for the jobs of the next chunk.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS files
-- ARGV  1 blast id · 2 ms to keep a file until its chunk is enqueued · 3 … pairs: digest, content
-- Result  how many files are new; -1, and nothing is stored, while a sender of an earlier version has a heartbeat: it
--         cannot read jobs whose files are stored separately
-- Without allow-oom, like `enqueue`: a full Redis accepts no new work.
-- Safe to repeat. A crash after: files that no job needs expire.

local senders = redis.call('HGETALL', C .. ':senders')
for i = 1, #senders, 2 do
  local fine, said = pcall(cjson.decode, senders[i + 1])
  local knows = fine and type(said) == 'table' and said.files == 'apart'
  if not knows and redis.call('EXISTS', C .. ':sender:' .. senders[i]) == 1 then return -1 end
end

make_wake_stream()
local blast, keep_ms, added = ARGV[1], tonumber(ARGV[2]), 0
for i = 3, #ARGV, 2 do
  local key = file_key(blast, ARGV[i])
  if redis.call('EXISTS', key) == 0 then
    redis.call('SET', key, ARGV[i + 1], 'PX', ARGV[2])
    added = added + 1
  else
    local left = redis.call('PTTL', key)
    if left >= 0 and left < keep_ms then redis.call('PEXPIRE', key, keep_ms) end
  end
end
return added
