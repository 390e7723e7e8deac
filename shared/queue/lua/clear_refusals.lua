#!lua flags=allow-oom
-- End a server's run of refusals, if it has one: the server has accepted a message.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 server
-- Result  1 if there was a run, else 0
-- Safe to repeat.

return redis.call('DEL', C .. ':refused:' .. ARGV[1])
