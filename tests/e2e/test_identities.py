"""Every way to say who one is, over the port where it works, and the record of how it was said."""

from __future__ import annotations

import base64
import secrets

import grpc
import pytest

from tests.e2e.caller import calling, infer_body
from tests.e2e.running import until

CODE = grpc.StatusCode
KIOSK = "spiffe://stockade.local/kiosk/7"


def basic(key: str) -> str:
    return "Basic " + base64.b64encode(key.replace(".", ":", 1).encode()).decode()


@pytest.mark.parametrize(
    ("header", "value", "method", "credential"),
    [
        ("authorization", lambda site: f"Bearer {site.keys['plenty']}", "api_key", "plenty"),
        ("authorization", lambda site: f"bearer {site.keys['plenty']}", "api_key", "plenty"),
        ("authorization", lambda site: basic(site.keys["plenty"]), "api_key", "plenty"),
        ("x-api-key", lambda site: site.keys["plenty"], "api_key", "plenty"),
        ("authorization", lambda site: f"Bearer {site.token()}", "jwt", "corp/test-1"),
    ],
    ids=["bearer", "bearer in small letters", "basic", "x-api-key", "token"],
)
def test_a_header_says_who_it_is(stand, header, value, method, credential):
    with calling(stand.site, stand.facts["data"]) as caller:
        reply = caller.infer(infer_body(), metadata=((header, value(stand.site)),))
    assert reply.code is CODE.OK, reply.details
    auth = stand.entry(reply.request_id)["auth"]
    assert (auth["method"], auth["credential"], auth["tenant"]) == (method, credential, "plenty")


def kiosk(site) -> tuple[bytes, bytes]:
    return site.read("clients/kiosk-7.tls.crt"), site.read("clients/kiosk-7.tls.key")


def test_a_certificate_says_who_it_is(stand):
    with calling(stand.site, stand.facts["data_mtls"], certificate=kiosk(stand.site)) as caller:
        reply = caller.infer(infer_body())
        streamed = list(caller.stream([infer_body()] * 3))
    assert reply.code is CODE.OK, reply.details
    assert len(streamed) == 3
    auth = stand.entry(reply.request_id)["auth"]
    assert (auth["method"], auth["credential"], auth["tenant"]) == ("mtls", KIOSK, "store-7")


def test_a_certificate_and_a_key_of_the_same_caller_agree(stand):
    metadata = stand.site.bearer("kiosk-7")
    with calling(stand.site, stand.facts["data_mtls"], metadata, certificate=kiosk(stand.site)) as caller:
        assert caller.infer(infer_body()).code is CODE.OK


def test_a_certificate_and_a_key_of_two_callers_contradict_each_other(stand):
    metadata = stand.site.bearer("plenty")
    with calling(stand.site, stand.facts["data_mtls"], metadata, certificate=kiosk(stand.site)) as caller:
        reply = caller.infer(infer_body())
        with pytest.raises(grpc.RpcError) as refused:
            list(caller.stream([infer_body()]))
    assert (reply.code, reply.reason) == (CODE.UNAUTHENTICATED, "CREDENTIAL_INVALID")
    assert refused.value.code() is CODE.UNAUTHENTICATED


def test_a_certificate_counts_only_on_the_port_that_asks_for_it(stand):
    with calling(stand.site, stand.facts["data"], certificate=kiosk(stand.site)) as caller:
        assert caller.infer(infer_body()).reason == "CREDENTIAL_MISSING"


@pytest.mark.parametrize(
    "name", ["spiffe://other.local/kiosk/7", "spiffe://stockade.local/kiosk/70", "spiffe://stockade.local/kiosk"]
)
def test_a_certificate_with_another_name_is_nobody(stand, name):
    before = stand.counted("stockade_auth_failures_total", method="mtls")
    certificate = stand.site.certificate("kiosk-7", name)
    with calling(stand.site, stand.facts["data_mtls"], certificate=certificate) as caller:
        assert caller.infer(infer_body()).reason == "CREDENTIAL_INVALID"
    until(lambda: stand.counted("stockade_auth_failures_total", method="mtls") == before + 1, "not counted as mtls")


def test_a_certificate_of_another_authority_does_not_shake_hands(stand, tmp_path):
    from tests.e2e.site import make_site

    foreign = make_site(tmp_path / "foreign")
    with calling(stand.site, stand.facts["data_mtls"], certificate=kiosk(foreign)) as caller:
        reply = caller.ask("/grpc.health.v1.Health/Check", timeout=10)
    assert (reply.code, reply.trailers) == (CODE.UNAVAILABLE, {})


def test_a_storm_of_tokens_with_unknown_keys_is_refused_and_honest_tokens_are_not(stand):
    with calling(stand.site, stand.facts["data"]) as caller:
        for _ in range(300):
            metadata = (("authorization", f"Bearer {stand.site.token(kid=secrets.token_hex(8))}"),)
            assert caller.ask("/grpc.health.v1.Health/Check", metadata=metadata).reason == "CREDENTIAL_INVALID"
        honest = (("authorization", f"Bearer {stand.site.token()}"),)
        assert caller.infer(infer_body(), metadata=honest).code is CODE.OK


def test_two_callers_of_a_tenant_have_different_pseudonyms_and_one_caller_one(stand):
    ids = {}
    with calling(stand.site, stand.facts["data"]) as caller:
        for name in ("plenty", "lapsed", "plenty"):
            reply = caller.infer(infer_body(), metadata=stand.site.bearer(name))
            ids.setdefault(name, []).append(reply.request_id)
    names = {name: {stand.entry(each)["auth"]["principal"] for each in found} for name, found in ids.items()}
    assert len(names["plenty"]) == 1
    assert names["plenty"] != names["lapsed"]
    assert not [name for found in names.values() for name in found if "plenty" in name]
