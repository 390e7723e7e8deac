#!lua flags=allow-oom
-- Move jobs from `<sender>:buf` to `<sender>:tx`: the record that their sends may have begun.
--
-- KEYS  1 the partition's stream of wake-ups · 2 a key that never exists
-- PARTS limits, starts, suppressions, begins
-- ARGV  1 sender · 2 sequence · 3 head of the event batch · 4 µs between two starts, 0 for no limit (a rate set at run
--       time takes precedence) · 5 µs that a start may be granted ahead · 6 policy on uncertain sends: "resend", "hold",
--       or "repeat" (receivers recognise repetitions: they end no job, and none is sent alone) · 7 stalls that
--       make a job poison · 8 most jobs in flight · 9 jobs in flight, by the sender's count · 10 starts per period at the
--       spacing of ARGV 4 · 11 µs: how much later than the gap allows a start under the channel's limit may come ·
--       12 the sender's time in ms ·
--       13 … runs of jobs that share eight fields: stream, blast, run of the jobs, expiry in ms (0: never), "r" (waits for a
--       further attempt), "x" (all its attempts are used, the last was abandoned) or "q", followed by the delivery count
--       that the sender knows (if the entry has another count, the sender's lease was lost), the limit of their domain or
--       recipient: "<name> <µs between starts> <burst> <starts per period> <µs> <first letter of the lane>" or "" (the last
--       µs: how much later than the gap allows its start may come, where no limit of the channel spaces it), after
--       "=<answer of grant> " if that was asked before, or "?" for jobs without a limit of their own if the limits are
--       elsewhere and were not asked, the attempt from 1, the number of jobs; then three per job: id, job id, "m" (marketing)
--       or "t" followed by the identity of the address
-- Result  one word per job, joined by commas: "g" granted, to be started immediately · "s<µs>" granted under the
--       channel's limit, to be started after this time and not much later · "o<µs>" the same where only its own limit
--       spaces starts · "G", "S<µs>" and "O<µs>" the same, to be sent alone · "lost" not in this sender's buffer ·
--       "cancelled" · "expired" · "suppressed" · "sent" already, by a late answer · "paused" its blast is ·
--       "held" the channel is paused, or this sender's heartbeat has lapsed · "limited<µs>" no start is free for this
--       time · "beyond" its own limit: it must wait in that limit's list · "full" the same, but the list holds enough
--       jobs of bulk blasts and the job's stream rests: it must be given back · "uncertain" · "poison" · "wait" it must
--       be sent alone and others are in flight · "crowded" the most jobs are in flight · "ask" the limits must be
--       asked before, since the channel may have a rate
-- Refused jobs are not charged to limits. A repeated call gets the same answer. A new call for an entry that is already
-- in the sender's own `:tx` is refused as lost, because a task holds it.
-- A crash before: the jobs are surely not sent. After: they are uncertain, and the reaper finds them in `:tx`.

local sender, sequence = ARGV[1], ARGV[2]
local kept = replayed(sender, 'begin', sequence)
if kept then return kept end

local now = now_us()
local answer, events = begin_jobs(ARGV, now)
write_counts(math.floor(now / 1000), nil, events)
emit(ARGV[3], events)
return remember(sender, 'begin', sequence, table.concat(answer, ','))
