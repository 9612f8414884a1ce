"""`stockade audit`: verify, query, mirror, restore, epochs and witnesses, for people."""
