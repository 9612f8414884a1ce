"""Freeze what a client library has compiled in: the file descriptors of its generated modules, as a FileDescriptorSet.

    python tests/vectors/wire/freeze.py OUT.binpb UNPACKED/model_config_pb2.py UNPACKED/service_pb2.py

The modules are read, not imported: nothing of a client runs here, and no protobuf version has to fit. Name each module
after those it depends on.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet


def serialized_files(module: str) -> Iterator[bytes]:
    """The arguments of `AddSerializedFile`, in whatever way the generator wrote the call."""
    for node in ast.walk(ast.parse(module)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "AddSerializedFile"
        ):
            yield ast.literal_eval(node.args[0])


def freeze(modules: list[Path]) -> FileDescriptorSet:
    files = [FileDescriptorProto.FromString(data) for path in modules for data in serialized_files(path.read_text())]
    return FileDescriptorSet(file=files)


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(freeze([Path(name) for name in sys.argv[2:]]).SerializeToString())
