"""The audit log: a transparency log in the C2SP formats, written by one process and verifiable by anybody.

Pure: `entry`, `merkle`, `checkpoint`, `tiles`. Writers: `recorder` over `appender`, `segments`, `publisher`, `signer`,
`lock`. In the gateway worker: `client`, `ring`, `keys`. Readers: `read`, `verify`.
"""
