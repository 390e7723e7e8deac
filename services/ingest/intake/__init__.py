"""Intake: how a blast's request becomes jobs on the queue.

A body of any form is read twice at most. First pass: each recipient is checked by itself
(`services.ingest.recipients`), what passes is kept in a spool (memory, then disk), fingerprints of addresses find
the duplicates, and the totals are known at its end. Then the blast's snapshot is created, and the second pass
turns the spool into chunks of jobs, in an order that is the same whenever the same body is sent again, so that a
repeated call adds exactly what is missing.
"""
