"""`stockade bench`: measurements that anybody can repeat, of the gateway and of what people use today.

measures.py is the table of verbs, runner.py runs them, targets.py says what is measured. The load comes from h2load,
which is not Python; peers run in environments of their own (`servers/` holds what runs there and is never imported
here). docs/reference/benchmarks.md says what is measured and how.
"""
