"""The queue: the only code that talks to Redis Streams.

Every move of a job is one Lua script in `lua/`, safe to repeat after a lost reply. `producer` puts jobs in,
`consumer` takes them through fetch, begin and settle, `reaper` takes over from dead senders, `sweeper` ends
what was cancelled, `control` pauses, resumes and counts, `event_log` hands the events to the logger.
"""
