"""How much a caller may have: rates and costs (`gcra`, `memory`), calls in flight (`concurrency`), by `budget`."""
