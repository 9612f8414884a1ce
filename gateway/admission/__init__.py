"""How much a caller may have: rates and costs (`gcra`, `memory`, `shared`), calls in flight (`concurrency`), by `budget`.

`redis` is where shared limits are kept, `snapshot` what a worker leaves to its successor.
"""
