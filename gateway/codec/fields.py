"""protobuf's encoding of fields, for where making objects of them would cost too much.

See "Encoding" in the Protocol Buffers documentation: a field is a tag (its number and a wire type) and a value.
"""

from functools import lru_cache

from gateway.errors import MalformedMessage

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_VARINT_BITS_MAX = 70  # ten bytes of seven bits


def tag(number: int) -> bytes:
    """The tag of a length-delimited field with a number up to 15."""
    return bytes([number << 3 | _DELIMITED])


@lru_cache(maxsize=4096)
def prefix(tag: bytes, length: int) -> bytes:
    """What stands before the value of a length-delimited field: its tag and its length."""
    encoded = bytearray(tag)
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)


def delimited(tag: bytes, value: bytes) -> bytes:
    return prefix(tag, len(value)) + value


def next_field(body: bytes, position: int, end: int) -> tuple[int, int, int]:
    """Field number, where its value starts, and where it ends. Groups, which no message of ours has, are refused."""
    tag, position = varint(body, position, end)
    start = position
    wire_type = tag & 7
    if wire_type == _VARINT:
        _, position = varint(body, position, end)
    elif wire_type == _FIXED64:
        position += 8
    elif wire_type == _FIXED32:
        position += 4
    elif wire_type == _DELIMITED:
        length, start = varint(body, position, end)
        position = start + length
    else:
        raise MalformedMessage
    if position > end:
        raise MalformedMessage
    return tag >> 3, start, position


def varint(body: bytes, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, _VARINT_BITS_MAX, 7):
        if position >= end:
            break
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise MalformedMessage
