"""Bytes to arrays and back: the Open Inference Protocol's tensors, strictly.

```
parse   bytes → message        limits of size and count, before and after protobuf has read it
decode  message → InferRequest names, datatypes, shapes, contents, declared range; arrays without copies
encode  arrays → bytes         one reply;  encode_batch: the replies of all requests of a batch
forward arrays ↔ bytes         the other side: a request that we send to another server, and its reply
```

Rules:
- Any bytes give a value or one of three errors of `gateway.errors`: MalformedMessage, RequestTooLarge, TensorInvalid.
- No claim of a message (a shape, a length, a count) makes us allocate more than its own bytes justify.
- An error names a field of the message and a fixed problem, never a value of it.
- Pure: no IO, no clock, no logging.
"""

from gateway.codec.decode import decode
from gateway.codec.encode import encode, encode_batch, with_id, without_id
from gateway.codec.forward import read_reply, write_request
from gateway.codec.parse import parse, parse_as
from gateway.codec.request import CodecLimits, InferRequest, Spec

__all__ = [
    "CodecLimits",
    "InferRequest",
    "Spec",
    "decode",
    "encode",
    "encode_batch",
    "parse",
    "parse_as",
    "read_reply",
    "with_id",
    "without_id",
    "write_request",
]
