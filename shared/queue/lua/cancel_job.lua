#!lua flags=allow-oom
-- Mark one job as cancelled: `begin` refuses it, wherever it waits; the sweep ends it. The script that ends the job removes
-- the mark. Marks of jobs that do not exist expire all together, ARGV 2 after the last one was set.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 job id · 2 ms to keep the marks
-- Result  1
-- Safe to repeat. A crash before: nothing happened. After: a sender ends the job when it reaches it.

make_wake_stream()
redis.call('HSET', C .. ':cancels', ARGV[1], '1')
redis.call('PEXPIRE', C .. ':cancels', ARGV[2])
return 1
