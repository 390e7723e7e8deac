#!lua flags=allow-oom
-- Resume the channel.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 head of the event batch, "" for no event (another partition of the channel emits it)
-- Result  1 if it was paused, else 0
-- Safe to repeat. The resumption and its event are written together.

local was = redis.call('DEL', C .. ':paused')
wake_senders()
if was == 1 and ARGV[1] ~= '' then
  emit(ARGV[1], { cmsgpack.pack({ 'channel_changed', math.floor(now_us() / 1000), channel_name(), 'resumed', '' }) })
end
return was
