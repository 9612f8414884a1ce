"""`stockade`: the command line, a verb a module."""
