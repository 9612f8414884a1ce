"""The models of a process: engines, queues, servers elsewhere, and what each has done."""
