#!lua flags=allow-oom
-- Mark one job as cancelled: `begin` refuses it, wherever it waits or comes due meanwhile; the sweep ends it. What ends
-- it takes the mark away; marks of jobs that are nowhere go all together, so long after the last was set.
--
-- KEYS  1 the partition's bell · 2 a key that never exists
-- ARGV  1 job id · 2 ms that the marks are kept
-- Result  1
-- Safe to repeat. A crash before: nothing happened. After: a sender ends the job when it reaches it.

make_wake_stream()
redis.call('HSET', C .. ':cancels', ARGV[1], '1')
redis.call('PEXPIRE', C .. ':cancels', ARGV[2])
return 1
