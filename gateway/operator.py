"""What an operator does from the command line to a running gateway: calls over the admin port, with a certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from gateway.config import load_config
from gateway.document import FileRejected
from stockade.v1 import admin_pb2

if TYPE_CHECKING:
    from pathlib import Path

IDENTITY = "clients/operator.tls"
TIMEOUT_S = 60.0


class OperatorFailed(Exception):
    """The gateway could not be asked. The message is for the person at the terminal."""


def reload_policy(config_file: Path, identity: Path | None) -> admin_pb2.ReloadPolicyResponse:
    """Ask the gateway of this configuration to take the policy file over.

    Raises:
        OperatorFailed: it cannot be reached, or does not let us.
    """
    try:
        config = load_config(config_file)
        if config.listen.admin is None or config.tls is None or config.tls.client_ca is None:
            raise OperatorFailed("this gateway has no admin port: set listen.admin, or send it SIGHUP")
        prefix = identity or config_file.parent / IDENTITY
        credentials = grpc.ssl_channel_credentials(
            root_certificates=config.tls.client_ca.read_bytes(),
            private_key=prefix.with_name(prefix.name + ".key").read_bytes(),
            certificate_chain=prefix.with_name(prefix.name + ".crt").read_bytes(),
        )
    except (FileRejected, OSError) as problem:
        raise OperatorFailed(str(problem)) from problem
    with grpc.secure_channel(config.listen.admin, credentials) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/stockade.v1.Admin/ReloadPolicy")
        try:
            reply = call(admin_pb2.ReloadPolicyRequest().SerializeToString(), timeout=TIMEOUT_S)
        except grpc.RpcError as problem:
            raise OperatorFailed(f"{config.listen.admin}: {problem.details()}") from problem
    return admin_pb2.ReloadPolicyResponse.FromString(reply)
