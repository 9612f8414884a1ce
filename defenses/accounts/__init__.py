"""S2 and S3: what an account asked before, and the evidence against it."""
