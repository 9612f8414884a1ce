"""How much a caller may have, by `budget`: rates and costs (`gcra`, `memory`), calls in flight (`concurrency`).

`shared` is for limits that gateways have together, `redis` keeps those, `snapshot` is what a worker leaves behind.
"""
