#!lua flags=allow-oom
-- Let go of the files of dead letters that the log has taken over, or of jobs that are nowhere.
--
-- KEYS  1 the partition's bell · 2 a key that never exists
-- PARTS files
-- ARGV  1 "letters" or "jobs" · 2 … pairs: job id, run
-- Result  how many of these had files kept
-- A dead letter is known by its run. Where a sender of an earlier version ended it, its files are noted as a job's.
-- Safe to repeat: what is gone is skipped.

local freed = 0
for i = 2, #ARGV, 2 do
  local job_id, run = ARGV[i], ARGV[i + 1]
  local blast, index = string.match(job_id, '^([^:]+):(%d+):')
  local digests = ARGV[1] == 'letters' and blast and take_needs(files_key(blast), '!' .. run .. ':' .. index, run)
  if digests then
    release(blast, '+', digests)
    freed = freed + 1
  elseif free_files(job_id, run) then
    freed = freed + 1
  end
end
return freed
