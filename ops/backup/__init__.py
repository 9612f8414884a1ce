"""Backups of a gateway: encrypted, incremental, verified. What belongs to one is the gateway's to say (`Plan`)."""
