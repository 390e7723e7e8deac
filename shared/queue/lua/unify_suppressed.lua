#!lua flags=allow-oom
-- Store a suppression under the identity of its address: earlier versions stored it as the address was spelled.
--
-- KEYS  the channel's hash tag
-- ARGV  pairs: stored spelling · identity
-- Result  none
-- Safe to repeat. Where the identity is suppressed as well, a hard bounce wins, since it stops all mail.

for i = 1, #ARGV, 2 do
  local reason = redis.call('HGET', C .. ':suppressed', ARGV[i])
  if reason then
    local call = string.sub(reason, 1, 11) == 'hard_bounce' and 'HSET' or 'HSETNX'
    redis.call(call, C .. ':suppressed', ARGV[i + 1], reason)
    redis.call('HDEL', C .. ':suppressed', ARGV[i])
  end
end
return 'OK'
