"""Webhooks: the client's endpoints, the journal of events, and the deliveries (tables: `webhook_tables`).

| module | responsible for |
| --- | --- |
| `journal` | which events follow from a batch, written in the transaction that applies it |
| `endpoints` | the endpoints as rows: created, changed, rotated, deleted, disabled |
| `changing` | what follows from a change of an endpoint |
| `bodies` | an event as the client gets it |
| `planning` | which events an endpoint gets next, cut into deliveries |
| `feeder` | the task that plans, enqueues and marks, for all endpoints in turns |
| `results` | what the senders report about deliveries |
| `sync` | endpoints in Redis: the hash that senders read, pauses, deleted partitions |
| `views`, `routes` | the HTTP that ingest calls |
| `expiring` | retention |
"""
