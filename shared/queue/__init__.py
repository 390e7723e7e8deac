"""The queue: the only code that talks to Redis Streams.

Every move of a job is one Lua script in `lua/`, safe to repeat after a lost reply. `producer` enqueues jobs,
`consumer` fetches, begins and settles them, `reaper` takes over from dead senders, `sweeper` ends cancelled jobs,
`control` pauses, resumes and counts, and `event_log` reads the events for the logger.
"""
