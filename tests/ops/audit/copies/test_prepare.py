"""What the compose stack makes of a site, by the script that we ship: its paths replaced, and run as root as there."""

from __future__ import annotations

import hashlib
import os
import runpy
import shutil
import subprocess
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ops.audit.copies.object_store import open_store, read_credentials
from ops.audit.errors import StoreRefused
from tests.e2e.running import until
from tests.seaweed import BUCKET, SeaweedFS, needs_seaweed

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")
SHIPPED = Path(__file__).parents[4] / "ops/deploy/compose/prepare.sh"
FILES = ("stockade.yaml", "policy.yaml", "policy.yaml.sig", "tls/server.crt", "tls/ca.crt")
FILES += ("keys/policy.pub", "keys/bundles.pub", "keys/log.vkey")
SECRETS = ("server.key", "pepper", "payload-master.key", "grafana.password", "ray.token")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def here(tmp_path) -> Path:
    """A site and its volumes, as the first start leaves them."""
    for name in (*FILES, *(f"secrets/{name}" for name in SECRETS)):
        write(tmp_path / "site" / name, f"{name}\n")
    write(tmp_path / "site/secrets/redis.password", "correct horse")
    for name in ("kiosk/1", "kiosk/2", "door/1"):
        write(tmp_path / "site/bundles" / name / "manifest.json", name)
    write(tmp_path / "volumes/vault/log.key", "the log's key")
    (tmp_path / "made").mkdir()
    return tmp_path


def prepare(here: Path) -> None:
    text = SHIPPED.read_text()
    places = {"/tmp/": f"{here}/made/", "v=/volumes": f"v={here}/volumes", "/site": f"{here}/site"}
    for old, new in {**places, "python /deploy/": f"{sys.executable} {SHIPPED.parent}/"}.items():
        assert old in text, old
        text = text.replace(old, new)
    (here / "prepare.sh").write_text(text.replace(f"deploy{here}/site", "deploy/site"))
    done = subprocess.run(["sh", here / "prepare.sh"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def bundles_in(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_redis_expects_the_password_that_the_gateway_shows(here, ending):
    """The gateway leaves off the end of the line."""
    (here / "site/secrets/redis.password").write_text(f"correct horse{ending}", newline="")
    prepare(here)
    wanted = hashlib.sha256(b"correct horse").hexdigest()
    assert f" #{wanted} " in (here / "volumes/redis-config/users.acl").read_text()


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_redis_remembers_what_the_script_wrote_and_lets_nobody_else_in(here):
    """Two writes of one script stand in its file as a transaction, which it reads back as the default user."""
    prepare(here)
    data, socket = here / "redis", here / "redis.sock"
    data.mkdir()
    command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", str(data), "--save", ""]
    command += ["--aclfile", str(here / "volumes/redis-config/users.acl"), "--appendonly", "yes"]
    command += ["--appendfsync", "always"]
    read = "return redis.call('MGET', KEYS[1], KEYS[2])"
    write_and_read = f"redis.call('SET', KEYS[1], '1') redis.call('SET', KEYS[2], '1') {read}"

    def ask(*arguments: str, user: tuple[str, ...] = ("--user", "gateway", "--pass", "correct horse")) -> str:
        asked = ["redis-cli", "-s", str(socket), "--no-auth-warning", *user, *arguments]
        return subprocess.run(asked, capture_output=True, text=True, check=False, timeout=20).stdout.strip()

    for text in (write_and_read, read):
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            until(lambda: ask("PING") == "PONG", "Redis does not answer")
            assert ask("EVAL", text, "2", "stockade:a", "stockade:b").split() == ["1", "1"]
            assert ask("GET", "stockade:a", user=()).startswith("NOAUTH")
            assert ask("AUTH", "default", "", user=()).startswith("WRONGPASS")
        finally:
            server.kill()
            server.wait()
            socket.unlink(missing_ok=True)


def test_the_volume_holds_the_bundles_of_the_site_and_no_others(here):
    site, volume = here / "site/bundles", here / "volumes/config/bundles"
    prepare(here)
    assert len(bundles_in(volume)) == 3
    assert bundles_in(volume) == bundles_in(site)
    shutil.rmtree(site / "kiosk/1")
    shutil.rmtree(site / "door")
    write(site / "kiosk/2/manifest.json", "made anew")
    write(volume / "kiosk/3.new/manifest.json", "left by a start that was ended")
    prepare(here)
    assert bundles_in(volume) == bundles_in(site) == {"kiosk/2/manifest.json": "made anew"}
    assert [path.name for path in volume.iterdir()] == ["kiosk"]
    shutil.rmtree(site / "kiosk")
    prepare(here)
    assert list(volume.iterdir()) == []


def test_what_has_not_changed_is_left_as_it_is(here):
    prepare(here)
    before = {path: path.stat().st_ino for path in (here / "volumes").rglob("*")}
    prepare(here)
    assert {path: path.stat().st_ino for path in (here / "volumes").rglob("*")} == before


def test_the_object_store_gets_a_certificate_that_is_its_own_authority_once(here):
    prepare(here)
    made = {name: (here / "volumes/objects-config" / name) for name in ("s3-grpc.crt", "s3-grpc.key", "security.toml")}
    assert {path.stat().st_mode & 0o777 for path in made.values()} == {0o400}
    certificate = x509.load_pem_x509_certificate(made["s3-grpc.crt"].read_bytes())
    key = load_pem_private_key(made["s3-grpc.key"].read_bytes(), password=None)
    certificate.verify_directly_issued_by(certificate)
    assert certificate.public_key() == key.public_key()
    settings = tomllib.loads(made["security.toml"].read_text())["grpc"]
    assert settings["ca"] == settings["s3"]["cert"] == "/etc/seaweedfs/s3-grpc.crt"
    before = made["s3-grpc.key"].read_bytes()
    prepare(here)
    assert made["s3-grpc.key"].read_bytes() == before


SUSPEND = b"<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>"
EXPIRE_SOON = b"""<LifecycleConfiguration><Rule><ID>soon</ID><Status>Enabled</Status><Filter><Prefix/></Filter>\
<Expiration><Days>1</Days></Expiration></Rule></LifecycleConfiguration>"""


@needs_seaweed
def test_who_copies_the_log_to_the_store_can_neither_hide_nor_unlock_it(here):
    prepare(here)
    credentials = read_credentials(here / "volumes/secrets/objects.json")
    server = SeaweedFS()
    server.identities.write_bytes((here / "volumes/objects-config/s3.json").read_bytes())
    script = runpy.run_path(str(BUCKET))

    def refusal(method: str, path: str, body: bytes = b"") -> int:
        url = f"{server.endpoint}/stockade-log{path}"
        asked = script["signed"](method, url, {}, *credentials.values(), body=body)
        with pytest.raises(HTTPError) as refused, urlopen(asked, timeout=20):
            pass
        with refused.value as answer:
            return answer.code

    try:
        server.start()
        server.make_bucket("stockade-log", 30, "log")
        store = open_store(server.place("s3://stockade-log/log", **credentials))
        store.put_new("checkpoint", b"first")
        store.replace("checkpoint", b"second")
        assert store.get("checkpoint") == b"second"
        lock = store.lock_of("checkpoint")
        assert lock is not None
        assert lock.mode == "COMPLIANCE"
        assert lock.until > datetime.now(UTC) + timedelta(days=29)

        assert refusal("DELETE", "/log/checkpoint") == 403
        assert refusal("PUT", "/?lifecycle=", EXPIRE_SOON) == 403
        assert refusal("PUT", "/?object-lock=", script["RETENTION"].format(1).encode()) == 403
        assert refusal("DELETE", "/?policy=") == 403
        assert refusal("PUT", "/?policy=", script["policy_against"]("nobody", "stockade-log")) == 403
        assert refusal("PUT", "/?versioning=", SUSPEND) == 409, "of a bucket that locks, nobody may"
        assert refusal("DELETE", "") == 403
        with pytest.raises(StoreRefused):
            open_store(server.place("s3://another/log", **credentials)).put_new("checkpoint", b"")
        assert store.get("checkpoint") == b"second"
    finally:
        server.close()


def test_the_gateway_and_the_store_are_given_new_credentials_together(here):
    prepare(here)
    (here / "volumes/secrets/objects.json").unlink()
    prepare(here)
    shown = read_credentials(here / "volumes/secrets/objects.json")
    assert shown["secret_access_key"] in (here / "volumes/objects-config/s3.json").read_text()
