"""The wire: bytes and statuses in and out, and the methods that are offered."""
