#!lua flags=allow-oom
-- Release the files of dead letters that the log has stored, or of jobs that no longer exist.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS files
-- ARGV  1 "letters" or "jobs" · 2 … pairs: job id, run
-- Result  how many of these had files
-- A dead letter is identified by its run. If a sender of an earlier version ended it, its files are recorded as a job's.
-- Safe to repeat: files that are gone are skipped.

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
