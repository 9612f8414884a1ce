"""Every method of every service, on both kinds of port, refuses a caller who does not say who he is.

The list is not ours: it is walked from the descriptors of the services, and from the method tables of the gateway, so
a method that is added tomorrow is tested tomorrow.
"""

from __future__ import annotations

from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from gateway.edge.methods import data_methods
from gateway.edge.reflection import REFLECTION_PATHS
from gateway.edge.service import Stream
from gateway.host.admin import Control
from stockade.open_inference import grpc_service_pb2
from stockade.v1 import admin_pb2, audit_pb2, custody_pb2, feedback_pb2
from tests.e2e.caller import calling, reply_of


def paths(*modules) -> dict[str, bool]:
    """The path of every method in these modules -> whether it streams."""
    return {
        f"/{service.full_name}/{method.name}": method.client_streaming or method.server_streaming
        for module in modules
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


LABELS = paths(feedback_pb2)
REVIEW = {path: streams for path, streams in LABELS.items() if path.startswith("/stockade.v1.FeedbackReview/")}
DATA = paths(grpc_service_pb2, health_pb2, reflection_pb2) | dict.fromkeys(REFLECTION_PATHS, True)
DATA |= {path: streams for path, streams in LABELS.items() if path not in REVIEW}
ADMIN = paths(admin_pb2, audit_pb2, custody_pb2) | REVIEW
NOWHERE = {"/inference.GRPCInferenceService/NoSuchMethod": False, "/no.such.Service/Method": True, "/": False}


def test_the_walk_finds_every_method_that_is_served():
    streams = {path: isinstance(method, Stream) for path, method in data_methods(reflection=True).items()}
    assert streams.items() <= DATA.items()
    assert Control.methods(listed_control()).keys() <= ADMIN.keys()
    assert len(DATA) > len(streams)  # the protocol has more than is offered: those are refused as well


def listed_control() -> Control:
    """The control plane's table needs no host to be listed."""
    return Control(host=SimpleNamespace(segments=None))


def refusal(caller, path: str, streams: bool):
    if not streams:
        return caller.ask(path)
    call = caller.stream([b""], method=path)
    with pytest.raises(grpc.RpcError):
        next(call)
    return reply_of(call)


@pytest.mark.parametrize(("path", "streams"), (DATA | ADMIN | NOWHERE).items())
def test_without_a_credential_the_data_port_refuses(stand, path, streams):
    with calling(stand.site, stand.facts["data"]) as caller:
        reply = refusal(caller, path, streams)
    assert (reply.code, reply.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_MISSING")


@pytest.mark.parametrize("port", ["admin", "data_mtls"])
def test_without_a_certificate_a_port_for_certificates_does_not_even_shake_hands(stand, port):
    for metadata in ((), stand.site.bearer("plenty")):
        with calling(stand.site, stand.facts[port], metadata) as caller:
            reply = caller.ask("/stockade.v1.Admin/Status", timeout=10)
        assert (reply.code, reply.trailers) == (grpc.StatusCode.UNAVAILABLE, {})


@pytest.mark.parametrize(("path", "streams"), (ADMIN | DATA | NOWHERE).items())
def test_a_certificate_of_our_authority_that_names_nobody_is_no_credential(stand, stranger, path, streams):
    with calling(stand.site, stand.facts["admin"], certificate=stranger) as caller:
        reply = refusal(caller, path, streams)
    assert (reply.code, reply.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID")


@pytest.fixture(scope="module")
def stranger(stand):
    return stand.site.certificate("stranger", "spiffe://stockade.local/nobody")


@pytest.mark.parametrize("path", ADMIN)
def test_a_caller_of_the_data_port_may_do_nothing_on_the_admin_port(stand, path):
    certificate = (stand.site.read("clients/kiosk-7.tls.crt"), stand.site.read("clients/kiosk-7.tls.key"))
    with calling(stand.site, stand.facts["admin"], certificate=certificate) as caller:
        reply = caller.ask(path)
    assert reply.code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED)
    assert reply.reason in ("METHOD_FORBIDDEN", "METHOD_UNIMPLEMENTED")


@pytest.mark.parametrize("path", ADMIN)
def test_a_key_opens_no_method_of_the_admin_port_whatever_its_role_may_do(stand, stranger, path):
    """The role of `rival` has every method, and any certificate of our authority gets through the handshake."""
    with calling(stand.site, stand.facts["admin"], stand.site.bearer("rival"), certificate=stranger) as caller:
        reply = caller.ask(path)
    assert (reply.code, reply.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID")
