"""A policy taken over while the gateway runs: all of it, for everybody, or nothing."""

from __future__ import annotations

import json
import queue
import signal
from datetime import UTC, datetime

import grpc
import pytest

from ops.audit.log.checkpoint import open_checkpoint, parse_vkey
from ops.audit.log.merkle import leaf_hash, verify_inclusion
from ops.audit.log.tlog_proof import parse_proof
from ops.audit.log.trust_policy import parse_trust_policy
from stockade.open_inference.grpc_service_pb2 import ModelStreamInferResponse
from stockade.v1 import admin_pb2, audit_pb2
from tests.e2e.caller import calling, infer_body
from tests.e2e.running import serving, until
from tests.e2e.site import copy_site

LEEWAY_S = 10  # of clocks, as every issuer has it unless told otherwise
ADMIN = "/stockade.v1.Admin/"
AUDIT = "/stockade.v1.Audit/"


@pytest.fixture
def site(made_site, tmp_path):
    return copy_site(made_site, tmp_path / "site")


def operator(site, running):
    """The operator, once the log has its first checkpoint, which Status speaks of."""
    until(running.entries, "no checkpoint")
    certificate = (site.read("clients/operator.tls.crt"), site.read("clients/operator.tls.key"))
    return calling(site, running.facts["admin"], certificate=certificate)


def reload(caller, expected: str = "") -> admin_pb2.ReloadPolicyResponse:
    reply = caller.ask(
        ADMIN + "ReloadPolicy", admin_pb2.ReloadPolicyRequest(expected_digest=expected).SerializeToString()
    )
    assert reply.code is grpc.StatusCode.OK, reply.details
    return admin_pb2.ReloadPolicyResponse.FromString(reply.body)


def status(caller) -> admin_pb2.StatusResponse:
    return admin_pb2.StatusResponse.FromString(caller.ask(ADMIN + "Status").body)


def add_key(site, principal: str, key_id: str) -> None:
    entry = site.new_key(key_id)
    site.change_policy(lambda policy: policy["principals"][principal]["api_keys"].append(entry))


def loaded(running) -> list[str]:
    """The policies that the log says were put in force, in order."""
    entries = [entry for entry in running.entries() if entry["kind"] == "policy"]
    return [entry["digest"] for entry in entries if entry["outcome"] == "loaded"]


def reloads(running) -> list[dict]:
    """The entries of the operator's calls for a reload."""
    return [entry for entry in running.entries() if entry.get("method") == ADMIN + "ReloadPolicy"]


def drop_key(site, principal: str) -> None:
    def change(policy) -> None:
        for entry in policy["principals"][principal]["api_keys"]:
            entry["revoked"] = True
        policy["principals"][principal]["api_keys"].append(replacement)

    replacement = site.new_key(f"{principal}-next")
    site.change_policy(change)


def test_a_new_key_works_and_a_revoked_one_stops_in_every_worker(site):
    site.change_config(lambda document: document.update(workers=2))
    with serving(site) as running, operator(site, running) as admin:
        add_key(site, "kiosk-7", "kiosk-7-b")
        with calling(site, running.facts["data"], site.bearer("kiosk-7-b")) as caller:
            assert caller.infer(infer_body()).reason == "CREDENTIAL_INVALID"
            changed = reload(admin)
            assert (changed.accepted, changed.previous_digest) == (True, running.facts["policy"])
            answer = caller.infer(infer_body())
            assert (answer.reason, answer.trailers["x-stockade-policy"]) == ("OK", changed.digest)
        drop_key(site, "kiosk-7")
        again = reload(admin)
        seen = set()
        for _ in range(8):  # connections spread over the workers
            with calling(site, running.facts["data"], site.bearer("kiosk-7")) as caller:
                seen.add(caller.infer(infer_body()).reason)
            with calling(site, running.facts["data"], site.bearer("kiosk-7-next")) as caller:
                answer = caller.infer(infer_body())
                assert (answer.reason, answer.trailers["x-stockade-policy"]) == ("OK", again.digest)
        assert seen == {"CREDENTIAL_INVALID"}
        policies = {worker.policy_digest for worker in status(admin).workers}
        assert policies == {again.digest}
        until(
            lambda: loaded(running) == [running.facts["policy"], changed.digest, again.digest],
            "the new policies are not in the log",
        )
        until(lambda: len(reloads(running)) == 2, "the calls of the operator are not in the log")
        assert {(entry["kind"], entry["auth"]["method"]) for entry in reloads(running)} == {("served", "mtls")}


@pytest.fixture(scope="module")
def changing(made_site, tmp_path_factory):
    """A gateway whose policy each test changes as it needs, and whose callers each belong to one test."""
    site = copy_site(made_site, tmp_path_factory.mktemp("changing") / "site")
    with serving(site) as running:
        yield site, running


def test_a_key_that_is_revoked_ends_a_stream_that_is_open(changing):
    site, running = changing
    with operator(site, running) as admin:
        bodies: queue.Queue = queue.Queue()
        with calling(site, running.facts["data"], site.bearer("archivist")) as caller:
            stream = caller.stream(iter(bodies.get, None))
            bodies.put(infer_body(id="before"))
            assert ModelStreamInferResponse.FromString(next(stream)).infer_response.id == "before"
            drop_key(site, "archivist")
            assert reload(admin).accepted
            bodies.put(infer_body(id="after"))
            refused = ModelStreamInferResponse.FromString(next(stream))
            assert refused.error_message.startswith("[CREDENTIAL_INVALID]")
            assert not refused.infer_response.outputs
            bodies.put(None)
            assert list(stream) == []


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda site: site.write_policy("version: 1\nrevision: [", sign=True), "policy.yaml"),
        (lambda site: site.change_policy(lambda policy: None, sign=False), "was not signed"),
        (lambda site: site.change_policy(lambda policy: policy["models"]["kiosk"].update(serve="9")), "'9'"),
        (
            lambda site: site.change_policy(
                lambda policy: policy["models"]["kiosk"]["screens"].update(sonar={"flag": 0.1})
            ),
            "sonar",
        ),
        (lambda site: site.change_policy(lambda policy: policy.update(revision=1)), "revision"),
        (lambda site: site.policy.unlink(), "policy.yaml"),
    ],
    ids=["not YAML", "not signed", "no such version", "no such screen", "an older revision", "no file"],
)
def test_a_policy_that_will_not_do_changes_nothing(kept, spoil, problem):
    site, running = kept
    before = site.policy.read_bytes(), (site.directory / "policy.yaml.sig").read_bytes()
    refused_before = len(refusals(running))
    try:
        with operator(site, running) as admin:
            spoil(site)
            answer = reload(admin)
            assert not answer.accepted
            assert answer.digest == answer.previous_digest == running.facts["policy"]
            assert problem in answer.problem
            assert status(admin).policy_digest == running.facts["policy"]
        with calling(site, running.facts["data"], site.bearer("kiosk-7")) as caller:
            assert caller.infer(infer_body()).trailers["x-stockade-policy"] == running.facts["policy"]
        recorded = until(lambda: refusals(running)[refused_before:], "the refusal is not in the log")
        assert {entry["digest"] for entry in recorded} == {running.facts["policy"]}
        assert any(problem in entry["reason"] for entry in recorded)
    finally:
        site.policy.write_bytes(before[0])
        (site.directory / "policy.yaml.sig").write_bytes(before[1])


def refusals(running) -> list[dict]:
    return [entry for entry in running.entries() if (entry["kind"], entry.get("outcome")) == ("policy", "rejected")]


@pytest.fixture(scope="module")
def kept(made_site, tmp_path_factory):
    """A gateway whose policy is never really changed."""
    site = copy_site(made_site, tmp_path_factory.mktemp("kept") / "site")
    with serving(site) as running:
        yield site, running


def test_an_operator_who_expects_another_policy_is_refused(kept):
    site, running = kept
    with operator(site, running) as admin:
        answer = reload(admin, expected="ab" * 32)
    assert not answer.accepted
    assert "another policy" in answer.problem


def test_the_policy_can_be_read_and_holds_no_key(kept):
    site, running = kept
    with operator(site, running) as admin:
        answer = admin_pb2.GetPolicyResponse.FromString(admin.ask(ADMIN + "GetPolicy").body)
    assert answer.digest == running.facts["policy"]
    assert json.loads(answer.policy)["principals"]["kiosk-7"]["api_keys"][0]["id"] == "kiosk-7-a"
    assert not [key for key in site.keys.values() if key.encode() in answer.policy]


def test_the_admin_port_proves_what_the_log_holds(kept):
    site, running = kept
    with calling(site, running.facts["data"], site.bearer("kiosk-7")) as caller:
        answer = caller.infer(infer_body())
    index = int(answer.trailers["x-stockade-audit-index"])
    running.entry(answer.request_id)  # until it is published
    with operator(site, running) as admin:
        asked = audit_pb2.GetInclusionProofRequest(index=index).SerializeToString()
        proof = audit_pb2.GetInclusionProofResponse.FromString(admin.ask(AUDIT + "GetInclusionProof", asked).body)
        listing = audit_pb2.ListEntriesRequest(start=index, count_max=1).SerializeToString()
        (leaf,) = audit_pb2.ListEntriesResponse.FromString(admin.ask(AUDIT + "ListEntries", listing).body).entries
        beyond = audit_pb2.GetInclusionProofRequest(index=2**40).SerializeToString()
        wanted = audit_pb2.GetReceiptRequest(index=index).SerializeToString()
        receipt = audit_pb2.GetReceiptResponse.FromString(admin.ask(AUDIT + "GetReceipt", wanted).body).receipt
        for method in ("GetInclusionProof", "GetReceipt"):
            assert admin.ask(AUDIT + method, beyond).code is grpc.StatusCode.INVALID_ARGUMENT
    checkpoint = open_checkpoint(proof.checkpoint, [parse_vkey(site.vkey)])
    verify_inclusion(leaf_hash(leaf), index, proof.tree_size, proof.hashes, checkpoint.root)
    assert json.loads(leaf)["id"] == answer.request_id
    trusted = parse_trust_policy(f"log {site.vkey}\nquorum none\n".encode())
    assert parse_proof(receipt).extra == leaf
    parse_proof(receipt).verify(trusted)


def test_the_file_is_watched_and_a_signal_reloads_it(changing):
    site, running = changing
    add_key(site, "kiosk-7", "kiosk-7-b")
    with calling(site, running.facts["data"], site.bearer("kiosk-7-b")) as caller:
        until(lambda: caller.infer(infer_body()).reason == "OK", "the changed file was not noticed")
        drop_key(site, "kiosk-7")
        running.process.send_signal(signal.SIGHUP)
        until(lambda: caller.infer(infer_body()).reason == "CREDENTIAL_INVALID", "the signal did not reload it")
        digest = caller.infer(infer_body()).trailers["x-stockade-policy"]
        until(
            lambda: running.counted("stockade_policy_info", digest=str(digest)) >= 1,
            "the page shows another policy",
        )


def test_after_a_broken_policy_a_restart_takes_the_last_good_one(site):
    with serving(site) as running, operator(site, running) as admin:
        add_key(site, "kiosk-7", "kiosk-7-b")
        good = reload(admin).digest
    site.change_policy(lambda policy: policy["models"]["kiosk"].update(harden="hard"))
    with serving(site) as running:
        assert running.facts["policy"] == good
        with calling(site, running.facts["data"], site.bearer("kiosk-7-b")) as caller:
            assert caller.infer(infer_body()).reason == "OK"
        assert [event["event"] for event in running.events()].count("policy-refused") == 1


def test_a_restarted_worker_does_not_load_an_edited_file(changing):
    site, running = changing
    before = site.policy.read_bytes()
    with calling(site, running.facts["data"], site.bearer("plenty")) as caller:
        in_force = caller.infer(infer_body()).trailers["x-stockade-policy"]
    try:
        site.change_policy(lambda policy: policy.update(models={}), sign=False)
        dead = running.kill("worker-0")
        until(lambda: running.pid_of("worker-0") != dead, "the worker was not started again")
        with calling(site, running.facts["data"], site.bearer("plenty")) as caller:
            answer = until(lambda: good(caller.infer(infer_body())), "the restarted worker does not answer")
        assert answer.trailers["x-stockade-policy"] == in_force
    finally:
        site.policy.write_bytes(before)


def good(reply):
    return reply if reply.code is grpc.StatusCode.OK else None


def test_a_token_that_runs_out_does_so_on_time(stand):
    """Expiry is looked at on each call: a token that was verified a moment ago is no exception."""
    with calling(stand.site, stand.facts["data"], stand.site.bearer("plenty")) as caller:
        assert caller.infer(infer_body()).reason == "OK"  # connected, before the token's time begins
        now_s = int(datetime.now(UTC).timestamp())
        token = (("authorization", f"Bearer {stand.site.token(iat=now_s - 60, exp=now_s - LEEWAY_S + 3)}"),)
        assert caller.infer(infer_body(), metadata=token).reason == "OK"
        until(lambda: caller.infer(infer_body(), metadata=token).reason == "CREDENTIAL_EXPIRED", "it never ran out")
