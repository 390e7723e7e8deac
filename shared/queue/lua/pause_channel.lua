#!lua flags=allow-oom
-- Pause the channel: senders begin no more jobs. It also runs when Redis is full, because senders call it.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- ARGV  1 reason · 2 head of the event batch, "" for no event (another partition of the channel emits it)
-- Result  1
-- Safe to repeat; the last reason stays. The pause and its event are written together; a channel that is paused already gets
-- no second event.

make_wake_stream()
pause_channel(ARGV[1], ARGV[2])
return 1
