"""`stockade incident`: list, timeline, recovery, report."""
