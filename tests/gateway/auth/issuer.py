"""A token issuer for the tests: real keys, real tokens, and a real https server for its key set."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.auth.jwks import parse_key_set
from gateway.auth.principal import Account

ISS = "https://issuer.example"
NOW_S = 1_800_000_000
NOW_NS = NOW_S * 1_000_000_000
KIOSK = Account("kiosk-7", "store-7", "interactive", 0, frozenset({"predictor"}))
OTHER = Account("kiosk-8", "store-8", "standard", 1, frozenset({"predictor"}))

ED = ed25519.Ed25519PrivateKey.generate()
EC = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
ALGORITHM = {"ed": "EdDSA", "ec": "ES256", "rsa": "RS256"}
PRIVATE = {"ed": ED, "ec": EC, "rsa": RSA}


def public_jwk(key, kid, **extra):
    """The public half of a key as a member of a key set."""
    kind = (
        OKPAlgorithm
        if isinstance(key, ed25519.Ed25519PrivateKey)
        else RSAAlgorithm
        if isinstance(key, rsa.RSAPrivateKey)
        else ECAlgorithm
    )
    return kind.to_jwk(key.public_key(), as_dict=True) | {"kid": kid} | extra


def key_set(*members):
    return json.dumps({"keys": list(members)}).encode()


def jwks(**keys):
    """The key set of these private keys, by kid."""
    return key_set(*[public_jwk(key, kid) for kid, key in (keys or PRIVATE).items()])


def claims(**changes):
    """The claims of a good token; a change to None leaves the claim out."""
    good = {"iss": ISS, "aud": "stockade", "sub": "svc", "iat": NOW_S - 10, "exp": NOW_S + 600}
    return {name: value for name, value in (good | changes).items() if value is not None}


def token(kid="ed", *, key=None, algorithm=None, headers=None, **changes):
    """A token signed with the key of this kid."""
    return jwt.encode(
        claims(**changes),
        key or PRIVATE[kid],
        algorithm=algorithm or ALGORITHM[kid],
        headers={"kid": kid} | (headers or {}),
    )


def segment(value):
    """One segment of a hand-made token."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class FixedKeys:
    """The keys of one document, and a list of what was missed."""

    def __init__(self, body=None):
        self.keys = parse_key_set(body or jwks(), {})
        self.asked = []

    def get(self, kid):
        return self.keys.get(kid)

    def missed(self, kid):
        self.asked.append(kid)

    def publish(self, body):
        self.keys = parse_key_set(body, self.keys)


class Site:
    """An https server for one document. `answer` may be replaced to misbehave."""

    def __init__(self, body):
        self.body = body
        self.hits = 0
        self.headers = []
        self.hit = threading.Event()
        self.port = 0
        self.answer = self.serve

    @property
    def url(self):
        return f"https://127.0.0.1:{self.port}/keys?v=1"

    def serve(self, handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(self.body)))
        handler.end_headers()
        handler.wfile.write(self.body)


@contextmanager
def https_site(directory, body):
    """Serve `body` on loopback; yields the site and the file with the root to trust."""
    site = Site(body)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            site.hits += 1
            site.headers.append((self.path, dict(self.headers)))
            with suppress(OSError):  # the client hung up on us, as it should
                site.answer(self)
            site.hit.set()

        def log_message(self, *_):
            pass

    certificate, key = self_signed(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # a client that refuses our certificate is part of a test
    server.socket = context.wrap_socket(server.socket, server_side=True)
    site.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site, certificate
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def self_signed(directory, *names, key=None):
    """Write a self-signed certificate for 127.0.0.1, localhost and these names; return the two paths."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    today = datetime.now(UTC)
    alternatives = [x509.IPAddress(IPv4Address("127.0.0.1")), x509.DNSName("localhost"), *names]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = directory / "site.crt", directory / "site.key"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_path, key_path
