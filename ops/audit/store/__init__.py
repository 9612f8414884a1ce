"""Writing the log: the recorder, its segments, publication, recovery and retention."""
