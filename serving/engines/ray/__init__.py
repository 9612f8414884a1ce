"""The engine whose models run in Ray Serve replicas."""
