import socket
import threading
import tracemalloc

import pytest

from gateway.auth.errors import IdentityRejected, KeySetRejected
from gateway.auth.jwks import KEY_SET_BYTES_MAX
from gateway.auth.jwt import Issuer, Tokens
from gateway.auth.key_loader import file_loader, https_loader
from gateway.auth.key_source import MISSED_MAX, KeySource
from gateway.auth.principal import Presented
from gateway.errors import CredentialInvalid
from tests.gateway.auth.issuer import EC, ED, ISS, KIOSK, NOW_NS, https_site, jwks, token

MS = 1_000_000


class Document:
    """A document that can change or be out of reach, a clock, and a count of readings."""

    def __init__(self, body=None):
        self.body = body or jwks(ed=ED)
        self.error = None
        self.readings = 0
        self.now_ns = 5_000_000_000_000

    def load(self):
        self.readings += 1
        if self.error is not None:
            raise self.error
        return self.body

    def clock_ns(self):
        return self.now_ns

    def source(self):
        return KeySource(self.load, refresh_ms=300_000, cooldown_ms=30_000, negative_ms=120_000, clock_ns=self.clock_ns)

    def after(self, source, milliseconds):
        """Let time pass as the thread would: read whenever a reading is due."""
        until_ns = self.now_ns + milliseconds * MS
        while self.now_ns + round(source.wait_s() * 1e9) <= until_ns:
            self.now_ns += round(source.wait_s() * 1e9)
            source.refresh()
        self.now_ns = until_ns


def tokens_of(source):
    terms = Issuer(name="corp", issuer=ISS, audience="stockade", algorithms=frozenset({"EdDSA", "ES256"}), keys=source)
    return Tokens([terms], {("corp", "svc"): KIOSK})


def test_the_first_reading_is_due_at_once_and_the_next_after_the_refresh_time():
    document = Document()
    source = document.source()
    assert source.wait_s() == 0
    assert source.get("ed") is None
    assert source.read_ns is None
    assert source.refresh()
    assert source.get("ed").algorithm == "EdDSA"
    assert source.wait_s() == 300
    assert source.read_ns == document.now_ns


def test_a_storm_of_unknown_kids_costs_one_reading_a_cooldown():
    document = Document()
    source = document.source()
    source.refresh()
    for second in range(300):
        for number in range(50):
            source.missed(f"{second}-{number}")
        document.after(source, 1_000)
    assert document.readings == 1 + 10


def test_a_cooldown_is_over_at_its_end_and_not_before():
    document = Document()
    source = document.source()
    source.refresh()
    source.missed("x")
    document.after(source, 29_999)
    assert document.readings == 1
    document.after(source, 1)
    assert document.readings == 2


def test_one_kid_that_does_not_exist_causes_one_reading_until_it_is_forgotten():
    document = Document()
    source = document.source()
    source.refresh()
    for _ in range(119):
        source.missed("ghost")
        document.after(source, 1_000)
    assert document.readings == 2
    document.after(source, 1_000)
    source.missed("ghost")
    assert source.wait_s() == 0


def test_the_memory_for_missed_kids_is_bounded_and_forgets_the_oldest():
    source = Document().source()
    for number in range(MISSED_MAX):
        source.missed(f"{number}")
    assert len(source._missed_until_ns) == MISSED_MAX
    source.missed("one more")
    assert len(source._missed_until_ns) == MISSED_MAX
    assert "0" not in source._missed_until_ns
    assert "1" in source._missed_until_ns
    tracemalloc.start()
    try:
        for number in range(20 * MISSED_MAX):
            source.missed(f"{number:0128d}")
        first, _ = tracemalloc.get_traced_memory()
        for number in range(20 * MISSED_MAX, 60 * MISSED_MAX):
            source.missed(f"{number:0128d}")
        second, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert second < first * 1.1 < 1_000_000


def test_keys_of_the_last_good_reading_stay_while_the_issuer_is_down_and_it_is_asked_every_cooldown():
    document = Document()
    source = document.source()
    source.refresh()
    for error in (OSError("down"), KeySetRejected("is not JSON"), RuntimeError("surprise")):
        document.error = error
        assert not source.refresh()
        assert source.error is error
        assert source.get("ed") is not None
        assert source.wait_s() == 30
    readings, read_ns = document.readings, source.read_ns
    document.after(source, 3_600_000)
    assert source.read_ns == read_ns
    assert document.readings == readings + 120
    assert source.get("ed") is not None
    document.error = None
    document.body = jwks(ec=EC)
    document.after(source, 30_000)
    assert source.error is None
    assert source.get("ed") is None
    assert source.wait_s() == 300


def test_a_set_that_cannot_be_used_does_not_replace_one_that_can():
    document = Document()
    source = document.source()
    source.refresh()
    document.body = b"{}"
    assert not source.refresh()
    assert source.get("ed") is not None
    document.body = jwks(ed=ED)
    assert source.refresh()


def test_a_rotated_key_is_found_by_the_first_token_that_needs_it():
    document = Document()
    source = document.source()
    source.refresh()
    document.now_ns += 60_000 * MS
    document.body = jwks(ed=ED, ec=EC)
    authenticator = tokens_of(source)
    presented = Presented(authorization=f"Bearer {token('ec')}")
    with pytest.raises(CredentialInvalid):
        authenticator.authenticate(presented, NOW_NS)
    document.after(source, 0)
    assert authenticator.authenticate(presented, NOW_NS).name == "kiosk-7"


def test_neither_get_nor_missed_waits_for_a_reading():
    entered, release = threading.Event(), threading.Event()

    def load():
        entered.set()
        assert release.wait(30)
        return jwks(ed=ED)

    source = KeySource(load)
    source.start()
    assert entered.wait(30)
    assert source.get("ed") is None  # these two would hang if they waited
    source.missed("ed")
    release.set()
    end(source)
    assert source.get("ed") is not None


def test_a_file_is_read_again_when_it_changes(tmp_path):
    path = tmp_path / "keys.json"
    path.write_bytes(jwks(ed=ED))
    source = KeySource(file_loader(path))
    assert source.refresh()
    before = source.get("ed")
    assert source.refresh()
    assert source.get("ed") is before
    path.write_bytes(jwks(ed=ED, ec=EC)[:-5])  # half written
    assert not source.refresh()
    assert source.get("ed") is before
    path.write_bytes(jwks(ec=EC))
    assert source.refresh()
    assert source.get("ed") is None
    assert source.get("ec") is not None
    path.unlink()
    assert not source.refresh()
    assert source.get("ec") is not None


def test_a_file_may_be_as_long_as_the_limit_and_not_longer(tmp_path):
    path = tmp_path / "keys.json"
    path.write_bytes(jwks(ed=ED).ljust(KEY_SET_BYTES_MAX))
    assert len(file_loader(path)()) == KEY_SET_BYTES_MAX
    path.write_bytes(jwks(ed=ED).ljust(KEY_SET_BYTES_MAX + 1))
    with pytest.raises(KeySetRejected, match="longer"):
        file_loader(path)()


def test_keys_come_over_https_and_a_storm_does_not_reach_the_issuer(tmp_path):
    with https_site(tmp_path, jwks(ed=ED)) as (site, root):
        source = KeySource(https_loader(site.url, ca_file=root))
        assert source.refresh()
        source.start()
        authenticator = tokens_of(source)
        assert authenticator.authenticate(Presented(authorization=f"Bearer {token('ed')}"), NOW_NS).name == "kiosk-7"
        for number in range(3_000):
            stranger = Presented(authorization=f"Bearer {token('ed', headers={'kid': str(number)})}")
            with pytest.raises(CredentialInvalid):
                authenticator.authenticate(stranger, NOW_NS)
        end(source)
        assert site.hits == 1
        path, headers = site.headers[0]
        assert path == "/keys?v=1"
        assert {"authorization", "cookie"}.isdisjoint(name.lower() for name in headers)


def end(source):
    """Let the thread finish what it is at."""
    source.close()
    source._thread.join(30)
    assert not source._thread.is_alive()


def test_a_token_for_a_new_key_makes_the_thread_fetch_it(tmp_path):
    with https_site(tmp_path, jwks(ed=ED)) as (site, root):
        source = KeySource(https_loader(site.url, ca_file=root), cooldown_ms=0)
        assert source.refresh()
        source.start()
        site.body = jwks(ed=ED, ec=EC)
        site.hit.clear()
        authenticator, presented = tokens_of(source), Presented(authorization=f"Bearer {token('ec')}")
        with pytest.raises(CredentialInvalid):
            authenticator.authenticate(presented, NOW_NS)
        assert site.hit.wait(30)
        end(source)
        assert authenticator.authenticate(presented, NOW_NS).credential == "corp/ec"


def test_a_server_that_is_not_trusted_is_not_believed(tmp_path):
    with https_site(tmp_path, jwks(ed=ED)) as (site, _):
        source = KeySource(https_loader(site.url))
        assert not source.refresh()
        assert "CERTIFICATE_VERIFY_FAILED" in str(source.error)
        assert source.get("ed") is None


def redirect(handler):
    handler.send_response(302)
    handler.send_header("Location", "/elsewhere")
    handler.end_headers()


def fail(handler):
    handler.send_response(500)
    handler.end_headers()


@pytest.mark.parametrize("answer", [redirect, fail])
def test_redirects_and_errors_are_failures(tmp_path, answer):
    with https_site(tmp_path, jwks(ed=ED)) as (site, root):
        site.answer = answer
        with pytest.raises(KeySetRejected, match="status"):
            https_loader(site.url, ca_file=root)()
        assert site.hits == 1


@pytest.mark.parametrize("declared", [True, False])
def test_a_response_that_is_too_long_is_cut_off(tmp_path, declared):
    sent = []

    def answer(handler):
        handler.send_response(200)
        if declared:
            handler.send_header("Content-Length", str(1 << 30))
        handler.end_headers()
        for _ in range(16_384):
            handler.wfile.write(b" " * 65_536)
            sent.append(65_536)

    with https_site(tmp_path, b"") as (site, root):
        site.answer = answer
        with pytest.raises(KeySetRejected, match="longer"):
            https_loader(site.url, ca_file=root)()
        assert site.hit.wait(30)
    assert sum(sent) < 64 << 20


def test_a_response_of_exactly_the_limit_is_read(tmp_path):
    with https_site(tmp_path, jwks(ed=ED).ljust(KEY_SET_BYTES_MAX)) as (site, root):
        assert len(https_loader(site.url, ca_file=root)()) == KEY_SET_BYTES_MAX


def test_a_server_that_drips_runs_into_the_deadline(tmp_path):
    stop = threading.Event()
    ticks = iter(range(1_000_000))

    def answer(handler):
        handler.send_response(200)
        handler.end_headers()
        while not stop.wait(0.001):
            handler.wfile.write(b" ")

    with https_site(tmp_path, b"") as (site, root):
        site.answer = answer
        try:
            with pytest.raises(TimeoutError):
                https_loader(site.url, ca_file=root, timeout_ms=20_000, clock=lambda: next(ticks))()
        finally:
            stop.set()


def test_a_server_that_says_nothing_runs_into_the_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        load = https_loader(f"https://127.0.0.1:{silent.getsockname()[1]}/", timeout_ms=50)
        with pytest.raises(TimeoutError):
            load()


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/keys",
        "https://",
        "ftp://issuer.example",
        "https://user@issuer.example/",
        "https://issuer.example/#x",
        "file:///etc/passwd",
        "keys.json",
    ],
)
def test_only_plain_https_urls_are_taken(url):
    with pytest.raises(IdentityRejected):
        https_loader(url)
