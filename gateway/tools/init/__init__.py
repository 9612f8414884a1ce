"""`stockade init` and `stockade keys`: a working, secure directory."""
