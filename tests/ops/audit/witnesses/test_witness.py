"""A witness over real HTTP, and a log that asks it: each status of the protocol, races, restarts, and liars."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from hashlib import sha256
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from ops.audit.errors import (
    ProofError,
    SignatureMissing,
    WitnessAhead,
    WitnessRefused,
    WitnessSilent,
)
from ops.audit.log.checkpoint import Checkpoint, SignerKey, open_checkpoint, open_note, sign_note, signature_line
from ops.audit.log.cosignature import COSIGN_ED25519, COSIGN_ML_DSA_44, Cosigner, time_of
from ops.audit.log.merkle import EMPTY_ROOT, consistency_proof, fold, leaf_hash, tree_root
from ops.audit.log.trust_policy import TrustedWitness
from ops.audit.witnesses.client import ask_all, cosignature
from ops.audit.witnesses.witness import (
    REQUEST_BYTES_MAX,
    AddCheckpoint,
    Reply,
    Witness,
    WitnessPage,
    WitnessStore,
    parse_add_checkpoint,
)

LOG = SignerKey("log.test/one", bytes(range(32)))
STRANGER = SignerKey("log.test/stranger", bytes(range(1, 33)))
NOW_S = 1_800_000_000
LEAVES = [leaf_hash(b"entry %d" % number) for number in range(300)]
FORKED = [leaf_hash(b"another"), *LEAVES[1:]]
COSIGNERS = (Cosigner("w.test", COSIGN_ML_DSA_44, bytes(32)), Cosigner("w.test", COSIGN_ED25519, bytes(32)))


def head(size: int, leaves: Sequence[bytes] = LEAVES, log: SignerKey = LOG) -> Checkpoint:
    return Checkpoint(log.name, size, tree_root(leaves[:size]))


def signed(size: int, leaves: Sequence[bytes] = LEAVES, log: SignerKey = LOG) -> bytes:
    return sign_note(head(size, leaves, log).text(), [log])


def prove(old: int, new: int, leaves: Sequence[bytes] = LEAVES) -> list[bytes]:
    return consistency_proof(old, new, lambda height, at: fold(leaves[at << height : (at + 1) << height]))


def request(old: int, new: int, leaves: Sequence[bytes] = LEAVES) -> bytes:
    return AddCheckpoint(old, tuple(prove(old, new, leaves)), signed(new, leaves)).body()


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return open_witness(tmp_path)


def open_witness(path: Path) -> Witness:
    return Witness(COSIGNERS, [LOG.verifier], WitnessStore(path / "witness.sqlite"), clock_s=lambda: NOW_S)


def keys() -> list:
    return [LOG.verifier, *(each.key for each in COSIGNERS)]


def test_what_extends_is_cosigned_by_each_key(witness):
    for old, new in ((0, 3), (3, 3), (3, 270), (270, 300)):
        reply = witness.add_checkpoint(request(old, new))
        assert (reply.status, reply.content_type) == (200, "text/plain; charset=utf-8")
        note = open_note(signed(new) + reply.body, keys())
        assert note.verified == (LOG.name, "w.test", "w.test")
        assert time_of(note.signatures[1][1]) == NOW_S


def test_it_serves_what_it_cosigned(witness):
    place = sha256(LOG.name.encode()).hexdigest()
    assert witness.checkpoint(place).status == 404
    witness.add_checkpoint(request(0, 3))
    reply = witness.checkpoint(place)
    assert reply.status == 200
    assert open_checkpoint(reply.body, [LOG.verifier]) == head(3)
    assert open_note(reply.body, keys()).verified == (LOG.name, "w.test", "w.test")


EMPTY = Checkpoint(LOG.name, 0, bytes(32))
REFUSED = {
    "another log": (AddCheckpoint(3, (), signed(9, log=STRANGER)).body(), 404),
    "not signed by it": (AddCheckpoint(3, (), sign_note(head(9).text(), [STRANGER])).body(), 403),
    "a bad signature": (AddCheckpoint(3, (), signed(9).replace(b"\n9\n", b"\n8\n")).body(), 403),
    "an old size beyond the new": (AddCheckpoint(10, (), signed(9)).body(), 400),
    "another old size": (request(2, 9), 409),
    "an older tree": (request(2, 2), 409),
    "a fork": (request(3, 9, FORKED), 422),
    "a fork of the same size": (AddCheckpoint(3, (), signed(3, FORKED)).body(), 422),
    "no proof": (AddCheckpoint(3, (), signed(9)).body(), 422),
    "a proof too many": (AddCheckpoint(3, (*prove(3, 9), bytes(32)), signed(9)).body(), 422),
    "no request": (b"hello", 400),
    "no checkpoint": (b"old 3\n\n" + f"{LOG.name}\n".encode(), 400),
}


@pytest.mark.parametrize(("body", "status"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_extend_is_refused_and_nothing_is_kept(witness, body, status):
    witness.add_checkpoint(request(0, 3))
    before = witness.checkpoint(sha256(LOG.name.encode()).hexdigest())
    reply = witness.add_checkpoint(body)
    assert reply.status == status
    if status == 409:
        assert (reply.body, reply.content_type) == (b"3\n", "text/x.tlog.size")
    assert witness.checkpoint(sha256(LOG.name.encode()).hexdigest()) == before
    assert witness.add_checkpoint(request(3, 9)).status == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (AddCheckpoint(0, (), sign_note(EMPTY.text(), [LOG])).body(), 422),
        (AddCheckpoint(0, (bytes(32),), signed(3)).body(), 422),
        (AddCheckpoint(0, (), sign_note(Checkpoint(LOG.name, 0, EMPTY_ROOT).text(), [LOG])).body(), 200),
    ],
    ids=["another empty tree", "a proof from nothing", "the empty tree"],
)
def test_a_first_checkpoint(witness, body, status):
    assert witness.add_checkpoint(body).status == status


def test_it_remembers_over_a_restart(witness, tmp_path):
    witness.add_checkpoint(request(0, 9))
    assert open_witness(tmp_path).add_checkpoint(request(0, 9, FORKED)).status == 409
    assert open_witness(tmp_path).add_checkpoint(request(9, 20, FORKED)).status == 422


def test_extension_lines_of_others_are_cosigned_with_ed25519(tmp_path):
    other = Witness(COSIGNERS[1:], [LOG.verifier], WitnessStore(tmp_path / "other.sqlite"), clock_s=lambda: NOW_S)
    text = f"{head(3).text()}an extension\n"
    reply = other.add_checkpoint(AddCheckpoint(0, (), sign_note(text, [LOG])).body())
    assert reply.status == 200
    assert open_note(sign_note(text, [LOG]) + reply.body, keys()).verified == (LOG.name, "w.test")


def test_of_many_at_once_no_two_trees_are_cosigned_from_one_size(witness):
    """The race of the specification: what was checked against one size must not replace a larger one."""
    witness.add_checkpoint(request(0, 3))
    sizes = [4 + number % 40 for number in range(120)]
    replies: list[tuple[int, Reply]] = []
    threads = [
        threading.Thread(target=lambda size=size: replies.append((size, witness.add_checkpoint(request(3, size)))))
        for size in sizes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [size for size, reply in replies if reply.status == 200]
    assert len(won) == 1
    assert {reply.body for _, reply in replies if reply.status == 409} == {b"%d\n" % won[0]}


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(data):
    try:
        parsed = parse_add_checkpoint(data)
    except ProofError:
        return
    assert parsed.body() == data


@contextmanager
def page(witness: Witness) -> Iterator[WitnessPage]:
    with WitnessPage("127.0.0.1", 0, witness) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()


def trusted(port: int, number: int = 0) -> TrustedWitness:
    return TrustedWitness(f"w{number}", COSIGNERS[number].key, f"http://127.0.0.1:{port}/")


def test_over_http_a_log_gets_its_cosignatures(witness):
    with page(witness) as served:
        for size in (3, 3, 270):
            asked = ask_all(signed(size), head(size), [trusted(served.port), trusted(served.port, 1)], prove)
            assert not asked.failures
            note = signed(size) + "".join(asked.lines.values()).encode()
            assert sorted(open_note(note, keys()).verified) == [LOG.name, "w.test", "w.test"]


def test_a_witness_that_has_seen_more_is_told_of(witness):
    with page(witness) as served:
        cosignature(signed(9), head(9), trusted(served.port), prove)
        with pytest.raises(WitnessAhead, match="size 9"):
            cosignature(signed(3), head(3), trusted(served.port), prove)


def test_a_fork_is_refused_over_http(witness):
    with page(witness) as served:
        cosignature(signed(3), head(3), trusted(served.port), prove)
        with pytest.raises(WitnessAhead, match="refuses the proof from size 3, which it has cosigned: a fork"):
            cosignature(signed(9, FORKED), head(9, FORKED), trusted(served.port), lambda a, b: prove(a, b, FORKED))
        with pytest.raises(WitnessAhead, match="refuses the proof from size 3, which it has cosigned: a fork"):
            cosignature(signed(3, FORKED), head(3, FORKED), trusted(served.port), lambda a, b: prove(a, b, FORKED))


def test_over_http_bodies_are_bounded_and_paths_are_two(witness):
    place = f"/{sha256(LOG.name.encode()).hexdigest()}/checkpoint"
    with page(witness) as served:
        with closing(HTTPConnection("127.0.0.1", served.port, timeout=20)) as connection:
            connection.request("POST", "/add-checkpoint", body=request(0, 3))
            assert connection.getresponse().read().startswith("— w.test ".encode())
            connection.request("GET", place)  # on the same connection
            assert connection.getresponse().read().startswith(LOG.name.encode())
        too_long = {"Content-Length": str(REQUEST_BYTES_MAX + 1)}
        for method, path, headers, status in (
            ("POST", "/add-checkpoint", too_long, 413),
            ("POST", "/add-checkpoint", {"Content-Length": "-1"}, 411),
            ("POST", "/add-checkpoint", {"Transfer-Encoding": "chunked"}, 411),
            ("POST", "/elsewhere", {"Content-Length": "0"}, 404),
            ("GET", "/../witness.sqlite", {}, 404),
            ("GET", f"/{'0' * 64}/checkpoint", {}, 404),
        ):
            with closing(HTTPConnection("127.0.0.1", served.port, timeout=20)) as connection:
                connection.putrequest(method, path)
                for each in headers.items():
                    connection.putheader(*each)
                connection.endheaders()  # no body: what is too long is refused before it comes
                with connection.getresponse() as reply:
                    assert reply.status == status


@contextmanager
def liar(status: int, body: bytes, headers: dict[str, str] | None = None) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            raise AssertionError(self.path)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


GOOD = COSIGNERS[0].cosign(head(9).text().encode(), NOW_S).encode()
LIES = {
    "an empty answer": (200, b"", {}, WitnessRefused, "no cosignature of its own"),
    "another tree": (200, COSIGNERS[0].cosign(head(8).text().encode(), NOW_S).encode(), {}, WitnessRefused, "verify"),
    "another key": (
        200,
        COSIGNERS[1].cosign(head(9).text().encode(), NOW_S).encode(),
        {},
        WitnessRefused,
        "no signature",
    ),
    "no signature lines": (200, b"<html>", {}, WitnessRefused, "no signature block"),
    "a size that is none": (409, b"many\n", {}, WitnessSilent, "without the size"),
    "always another size": (409, b"3\n", {}, WitnessRefused, "another size each time"),
    "an error": (500, b"\x1b[31mboom", {}, WitnessRefused, r"HTTP 500: \[31mboom"),
    "elsewhere": (302, b"", {"Location": "http://127.0.0.1:1/"}, WitnessRefused, "HTTP 302"),
}


@pytest.mark.parametrize(("status", "body", "headers", "error", "words"), LIES.values(), ids=LIES)
def test_a_witness_that_lies_costs_its_own_cosignature(status, body, headers, error, words):
    with liar(status, body, headers) as port, pytest.raises(error, match=words):
        cosignature(signed(9), head(9), trusted(port), prove)


def test_a_cosignature_without_a_time_does_not_count():
    """The format has them, for trees that are not the largest it has seen; `add-checkpoint` must not give one."""
    text = head(9).text().encode()
    signature = Ed25519PrivateKey.from_private_bytes(bytes(32)).sign(b"cosignature/v1\ntime 0\n" + text)
    line = signature_line("w.test", COSIGNERS[1].key.id, bytes(8) + signature).encode()
    assert open_note(signed(9) + line, keys()).verified == (LOG.name, "w.test")
    with liar(200, line, {}) as port, pytest.raises(WitnessRefused, match="no time"):
        cosignature(signed(9), head(9), trusted(port, 1), prove)


def test_what_a_witness_says_beside_its_cosignature_is_left_out():
    stranger = Cosigner("x.test", COSIGN_ED25519, bytes([9]) * 32).cosign(head(9).text().encode(), NOW_S).encode()
    with liar(200, stranger + GOOD) as port:
        assert cosignature(signed(9), head(9), trusted(port), prove).encode() == GOOD


def test_who_has_not_done_with_the_last_question_is_not_asked_another(monkeypatch):
    """One that answers a byte at a time must not cost a thread for each time it is asked."""
    asked, go_on = [], threading.Event()

    def slow(_note, _checkpoint, witness, _prove, **_):
        asked.append(witness.name)
        go_on.wait()
        return "line"

    monkeypatch.setattr("ops.audit.witnesses.client.cosignature", slow)
    witnesses = [TrustedWitness("slow", COSIGNERS[0].key, "http://127.0.0.1:1")]
    asking: dict[str, threading.Thread] = {}
    for words in ("no answer within", "not done with the last"):
        failure = ask_all(signed(9), head(9), witnesses, prove, asking=asking, timeout_s=0.01).failures["slow"]
        assert words in str(failure)
    go_on.set()
    asking["slow"].join()
    assert ask_all(signed(9), head(9), witnesses, prove, asking=asking, timeout_s=60).lines == {"slow": "line"}
    assert asked == ["slow", "slow"]


def test_who_stalls_or_is_gone_does_not_hold_up_the_others(witness):
    with page(witness) as served, socket.create_server(("127.0.0.1", 0)) as stalled, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        places = {"there": served.port, "stalls": stalled.getsockname()[1], "gone": closed.getsockname()[1]}
        witnesses = [
            TrustedWitness(name, COSIGNERS[0].key, f"http://127.0.0.1:{port}") for name, port in places.items()
        ]
        asked = ask_all(signed(9), head(9), witnesses, prove, timeout_s=1.5)
    assert list(asked.lines) == ["there"]
    assert {name: type(problem) for name, problem in asked.failures.items()} == {
        "stalls": WitnessSilent,
        "gone": WitnessSilent,
    }


def test_what_is_no_http_at_all_is_silence():
    def speak(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=speak, args=(listening,))
        thread.start()
        with pytest.raises(WitnessSilent):
            cosignature(signed(9), head(9), trusted(listening.getsockname()[1]), prove)
        thread.join()


def test_urls_are_http_and_nothing_else(tmp_path):
    (tmp_path / "add-checkpoint").write_bytes(GOOD)
    with pytest.raises(WitnessSilent, match="neither http nor https"):
        cosignature(signed(9), head(9), TrustedWitness("f", COSIGNERS[0].key, tmp_path.as_uri()), prove)


def test_a_key_of_the_log_alone_is_no_witness():
    with pytest.raises(SignatureMissing):
        open_note(signed(9), [COSIGNERS[0].key])
