#!lua flags=allow-oom
-- Let go of the files of dead letters that the log has taken over.
--
-- KEYS  the channel's hash tag
-- ARGV  pairs: job id, run
-- Result  how many of these had files kept
-- Safe to repeat: what is gone is skipped.

local freed = 0
for i = 1, #ARGV, 2 do
  local blast, index = string.match(ARGV[i], '^([^:]+):(%d+):')
  local key = blast and files_key(blast)
  local digests = key and take_needs(key, '!' .. ARGV[i + 1] .. ':' .. index, ARGV[i + 1])
  if digests then freed = freed + 1 end
  for digest in string.gmatch(digests or '', '%S+') do
    if not need_less(key, '+', digest) then drop_file(blast, digest) end
  end
end
return freed
