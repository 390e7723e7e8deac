"""The tools of the fault tests, on which all their verdicts depend."""
