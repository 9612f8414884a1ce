"""`stockade backup` and `stockade restore`."""
