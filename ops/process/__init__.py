"""What every process needs: logs, traces, locks, durable files, SQLite, a bounded HTTP server."""
