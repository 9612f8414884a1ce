"""What an operator does from the command line to a running gateway: calls over the admin port, with a certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.json_format import MessageToDict

from gateway.config.document import FileRejected, unusable
from gateway.config.load import load_config
from gateway.config.place import from_here

if TYPE_CHECKING:
    from pathlib import Path

    from google.protobuf.message import Message

M = TypeVar("M", bound="Message")

IDENTITY = "clients/operator.tls"
TIMEOUT_S = 60.0
REPLY_BYTES_MAX = 257 * 1024 * 1024  # a payload that was kept: `message_max` may be 256 MiB


class OperatorFailed(Exception):
    """The gateway could not be asked. The message is for the person at the terminal."""


def asked(method: str, request: Message, reply: type[M], options: Any, *, service: str = "Admin") -> M:
    """Ask with the options `file`, `identity` and `ca` of a command; returns the answer. Raises OperatorFailed."""
    reached = {"identity": options.identity, "authority": options.ca}
    return reply.FromString(ask(method, request.SerializeToString(), options.file, service=service, **reached))


def as_dict(message: Message) -> dict[str, Any]:
    """Return a message for machines: its own field names, defaults included."""
    found: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return found


def ask(
    method: str,
    body: bytes,
    config_file: Path,
    *,
    identity: Path | None,
    authority: Path | None,
    service: str = "Admin",
) -> bytes:
    """Call a method of the admin service; returns its reply.

    Args:
        method: its name.
        body: the request.
        config_file: stockade.yaml.
        identity: where the operator's `.crt` and `.key` stand, without the suffix.
        authority: who signed the server's certificate; `tls.client_ca` when it is not given.
        service: of `stockade.v1`.

    Raises:
        OperatorFailed: it cannot be reached, or does not let us.
    """
    try:
        config = load_config(config_file)
    except FileRejected as problem:
        raise OperatorFailed(str(problem)) from problem
    address = config.listen.admin
    if address is None or config.tls is None or config.tls.client_ca is None:
        raise OperatorFailed("this gateway has no admin port: set listen.admin, or send it SIGHUP")
    address = from_here(address)
    authority = authority or config.tls.client_ca
    prefix = identity or config_file.parent / IDENTITY
    advice = "name PREFIX.crt and PREFIX.key with --identity PREFIX"
    credentials = grpc.ssl_channel_credentials(
        root_certificates=read(authority, "name who signed the server's certificate with --ca"),
        private_key=read(prefix.with_name(prefix.name + ".key"), advice),
        certificate_chain=read(prefix.with_name(prefix.name + ".crt"), advice),
    )
    options = [("grpc.max_receive_message_length", REPLY_BYTES_MAX)]
    with grpc.secure_channel(address, credentials, options) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/stockade.v1.{service}/{method}")
        try:
            return call(body, timeout=TIMEOUT_S)
        except grpc.RpcError as problem:
            raise OperatorFailed(f"{address}: {reason(problem.details() or '', authority)}") from problem


def read(file: Path, advice: str) -> bytes:
    """Return what a file holds, or say what to do."""
    try:
        return file.read_bytes()
    except OSError as problem:
        raise OperatorFailed(unusable(problem, advice)) from problem


def reason(details: str, authority: Path) -> str:
    """Return why there was no answer; of TLS in words that help."""
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return f"the server's certificate is not of {authority}; name who signed it with --ca"
    return details
