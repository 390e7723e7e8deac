#!lua flags=allow-oom
-- Suppress an address. A full Redis must not keep a sender from noting a hard bounce.
--
-- KEYS  the channel's hash tag
-- ARGV  1 identity of the address · 2 reason
-- Result  1 if the address was not suppressed before, else 0
-- Safe to repeat; the first reason stays unless the new one is a hard bounce, which stops all mail.

if string.sub(ARGV[2], 1, 11) == 'hard_bounce' then return redis.call('HSET', C .. ':suppressed', ARGV[1], ARGV[2]) end
return redis.call('HSETNX', C .. ':suppressed', ARGV[1], ARGV[2])
