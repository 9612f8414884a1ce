"""Labels that clients send later: which are accepted, and the file that holds them (S7)."""
