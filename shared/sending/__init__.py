"""The sending loop of any channel.

A job is fetched into the sender's buffer, begun (from then on it is in flight), sent, and settled. `SendingLoop` runs
these tasks. They share `Holdings`, the record of the jobs that this sender holds:

| task | what it does | what it touches |
| --- | --- | --- |
| dispatcher | fetches jobs and begins them | scripts `fetch`, `begin`, `list_held`; buffer, jobs in flight; `Gates` |
| worker | renders and sends a begun job | provider, snapshots, files; jobs ready to send; the settler |
| settler | settles outcomes in batches | scripts `settle`, `ack_late`; removes jobs from `Holdings` |
| verdicts | holds refusals while they may concern everyone | scripts `count_refusal`, `clear_refusals`; the settler |
| wake-ups | waits until there may be work | the partition's stream of wake-ups; wakes the dispatcher |
| heartbeat | renews the lease | script `heartbeat`; the time of the last renewal |
| keeper | reaps dead senders, recovers lost entries | scripts `find_dead`, `reap`, `list_held`; buffer |
|        | takes over from senders that ended on this host | their journals; script `settle` in their place |
| copies | corrects what partitions have a copy of | scripts `pause_channel`, `suppress`, `cancel_blast`; `Holdings` |
| health | reports what does not work | reads `Gates` and the lease; the service's `/health` |

The settler, wake-ups, heartbeat and keeper run once for each partition (`Share`); the others serve all of them.

There are as many workers as the concurrency. A worker also carries out what follows from an answer: it pauses the
channel or a blast, or suppresses an address. Verdicts suppress the address of a refusal that they held once it counts;
the script `count_refusal` pauses the channel of a server that refuses everyone. Metrics call the wake-ups `bell`. The
keeper ends the sender if a send outlasts all time-outs.

Only the dispatcher and the keeper put jobs into the buffer, only the dispatcher begins them, and only the settler and
the dispatcher (for a job that it lost) remove them.
"""
