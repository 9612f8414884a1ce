"""`stockade bench`: measurements that anybody can repeat, of the gateway and of what people use today.

serve.py compares servers, memory.py watches one for a long time, verify.py times the audit log's verifier. The load
comes from h2load, which is not Python; peers run in environments of their own (`servers/` holds what runs there and is
never imported here). docs/reference/benchmarks.md says what is measured and how.
"""
