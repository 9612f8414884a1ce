"""What the fields of an entry hold, and how long they may be."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

INTEGER_MAX = 2**53 - 1

Text = Annotated[str, Meta(min_length=1, max_length=512)]
Name = Annotated[str, Meta(min_length=0, max_length=512)]
Hex32 = Annotated[str, Meta(min_length=32, max_length=32)]
Hex64 = Annotated[str, Meta(min_length=64, max_length=64)]
TimeNs = Annotated[str, Meta(min_length=1, max_length=19)]  # decimal; `check` sees to the digits
Count = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
Micro = Annotated[int, Meta(ge=-INTEGER_MAX, le=INTEGER_MAX)]
Key = Annotated[str, Meta(min_length=1, max_length=64)]
Counts = Annotated[dict[Key, Count], Meta(max_length=64)]
Details = Annotated[dict[Key, Name], Meta(max_length=64)]
V1 = Literal[1]


class Part(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False, frozen=True):
    """A part of an entry: unknown keys are refused, absent ones stay absent."""
