"""A third channel, as somebody would add it: text messages over a line protocol. One folder, nothing else."""
