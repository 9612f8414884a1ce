#!/usr/bin/env python3
"""Writes the wire types (`*_pb2.py`, `*_pb2.pyi`) beside the .proto files; with --check, says which are out of date.

protoc's own Python output would not do: it defines the messages in protobuf's default pool, where they collide with
every client library of the same protocol, and it refuses any protobuf older than the one it was made with. So the
modules are written from protoc's descriptors: into `stockade.pool`, with nothing but the three calls that protobuf 6
and 7 both have, and without service stubs (handlers are registered by hand, and grpc stays out of this package).
The type stubs are mypy-protobuf's.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

SOURCE_ROOT = Path(__file__).resolve().parent.parent / "proto"

MODULE = '''"""Written from {source} by `make proto`; do not edit."""

from google.protobuf.internal import builder
{imports}
from stockade.pool import POOL

DESCRIPTOR = POOL.AddSerializedFile(
{literal}
)
builder.BuildMessageAndEnumDescriptors(DESCRIPTOR, globals())
builder.BuildTopDescriptorsAndMessages(DESCRIPTOR, {module!r}, globals())
'''


def run_protoc(sources: list[str], target: Path) -> FileDescriptorSet:
    """Compiles `sources` (paths below the source root): stubs into `target`, descriptors as the return value."""
    descriptors = target / "descriptors.binpb"
    outputs = [f"--descriptor_set_out={descriptors}", f"--mypy_out=quiet:{target}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={SOURCE_ROOT}", *outputs, *sources]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # where protoc-gen-mypy is
    subprocess.run(command, check=True, env=os.environ | {"PATH": path})
    return FileDescriptorSet.FromString(descriptors.read_bytes())


def module_name(source: str) -> str:
    return source.removesuffix(".proto").replace("/", ".") + "_pb2"


def literal_lines(file: FileDescriptorProto) -> Iterator[str]:
    """The serialized descriptor as adjacent literals, one a declaration: a change stays on its own line.

    Serialized parts of a message, one after the other, are that message: what protobuf calls merging.
    """
    head = FileDescriptorProto(name=file.name, package=file.package, dependency=file.dependency, syntax=file.syntax)
    parts = [
        head,
        *(FileDescriptorProto(message_type=[message]) for message in file.message_type),
        *(FileDescriptorProto(enum_type=[enum]) for enum in file.enum_type),
        *(FileDescriptorProto(service=[service]) for service in file.service),
    ]
    for part in parts:
        yield f"    {part.SerializeToString()!r}"


def drop_json_names(message: DescriptorProto) -> None:
    """Drops what protoc adds to descriptor sets: it says nothing that the field names do not."""
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        drop_json_names(nested)


def render_module(file: FileDescriptorProto) -> str:
    for message in file.message_type:
        drop_json_names(message)
    # Imported for what they do: a file can enter the pool only after the files it depends on.
    imports = "".join(f"\nimport {module_name(dependency)}" for dependency in file.dependency)
    return MODULE.format(
        source=file.name,
        imports=imports,
        literal="\n".join(literal_lines(file)),
        module=module_name(file.name),
    )


def generate() -> dict[Path, str]:
    """Every generated file (path below the source root) and its text."""
    sources = sorted(str(path.relative_to(SOURCE_ROOT)) for path in SOURCE_ROOT.glob("stockade/**/*.proto"))
    texts = {}
    with tempfile.TemporaryDirectory() as name:
        target = Path(name)
        for file in run_protoc(sources, target).file:
            module = Path(file.name.removesuffix(".proto") + "_pb2.py")
            stub = module.with_suffix(".pyi")
            texts[module] = render_module(file)
            texts[stub] = (target / stub).read_text()
    return texts


def drifted(texts: dict[Path, str]) -> list[Path]:
    """Files that are missing, differ, or have no .proto any more."""
    present = {path.relative_to(SOURCE_ROOT) for path in SOURCE_ROOT.glob("stockade/**/*_pb2.py")}
    present |= {path.relative_to(SOURCE_ROOT) for path in SOURCE_ROOT.glob("stockade/**/*_pb2.pyi")}
    changed = {path for path in present & texts.keys() if (SOURCE_ROOT / path).read_text() != texts[path]}
    return sorted(changed | (present ^ texts.keys()))


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate the wire types from the .proto files.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a file is out of date")
    arguments = parser.parse_args()
    texts = generate()
    stale = drifted(texts)
    for path in stale:
        if arguments.check:
            print(f"out of date: proto/{path} (run `make proto`)", file=sys.stderr)
        elif path in texts:
            (SOURCE_ROOT / path).write_text(texts[path])
            print(f"wrote proto/{path}")
        else:
            (SOURCE_ROOT / path).unlink()
            print(f"removed proto/{path}")
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
