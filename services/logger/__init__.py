"""The logger: turns events into rows, serves the log queries, and exports the metrics of the whole pipeline.

Only the logger opens the SQLite file. `recorder` reads events from Redis, `folding` folds a batch into one change per
job, `merging` merges each change with the job's row, and `writing` writes the result in one transaction. `queries`,
`history` and `dashboard` read the rows back for `app`.
"""
