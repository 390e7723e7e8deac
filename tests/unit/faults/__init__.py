"""The tools of the fault tests, which judge everything else."""
