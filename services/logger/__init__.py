"""The logger: turns events into rows, answers what became of each message, and exports the pipeline's metrics.

It alone opens the SQLite file. A message's story enters through `recorder` (events from Redis), is folded by
`folding` into one change a job, merged with what the row says by `merging`, and written by `writing` in one
transaction; `queries`, `story` and `dashboard` read it back for `app`.
"""
