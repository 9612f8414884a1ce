"""A small private certificate authority: enough to start with TLS and client certificates, replaceable by your own.

Rules (RFC 5280; X.509-SVID for SPIFFE): ECDSA P-256 with SHA-256; the authority signs leaves only (path length 0); a
leaf serves one purpose (server or client); names are in the SAN, never only in the subject; a client certificate has
one SPIFFE id. Randomness and time are handed in. It revokes nothing: a client is taken out of the policy instead.
"""

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650
LEAF_DAYS = 397
CLOCK_SKEW = timedelta(minutes=5)
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

RandomBytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Credential:
    """A certificate and its private key, PEM. The key is secret."""

    certificate: bytes
    key: bytes
    expires: datetime

    def __repr__(self) -> str:
        return f"Credential(expires={self.expires.isoformat()})"


@dataclass(frozen=True, slots=True)
class Authority:
    """Issues certificates at `now`."""

    credential: Credential
    _certificate: x509.Certificate
    _key: ec.EllipticCurvePrivateKey
    _now: datetime
    _random_bytes: RandomBytes

    def server(self, hosts: Sequence[str]) -> Credential:
        """A server certificate for DNS names and IP addresses; the first one is also its subject."""
        names = [_general_name(host) for host in hosts]
        return self._issue(hosts[0], names, ExtendedKeyUsageOID.SERVER_AUTH)

    def client(self, name: str, spiffe: str) -> Credential:
        """A client certificate with one SPIFFE id."""
        return self._issue(name, [x509.UniformResourceIdentifier(spiffe)], ExtendedKeyUsageOID.CLIENT_AUTH)

    def _issue(self, name: str, names: Sequence[x509.GeneralName], usage: x509.ObjectIdentifier) -> Credential:
        key = new_key(self._random_bytes)
        expires = min(self._now + timedelta(days=LEAF_DAYS), self.credential.expires)
        issuer_id = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        certificate = (
            _builder(name, key, self._now, expires, self._random_bytes)
            .issuer_name(self._certificate.subject)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Credential(certificate.public_bytes(Encoding.PEM), private_pem(key), expires)


def new_authority(name: str, now: datetime, random_bytes: RandomBytes) -> Authority:
    """A new self-signed authority. `now` is aware and in UTC."""
    key = new_key(random_bytes)
    expires = now + timedelta(days=AUTHORITY_DAYS)
    certificate = (
        _builder(name, key, now, expires, random_bytes)
        .issuer_name(_subject(name))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    credential = Credential(certificate.public_bytes(Encoding.PEM), private_pem(key), expires)
    return Authority(credential, certificate, key, now, random_bytes)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8, unencrypted: what protects it is the file's mode."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def new_key(random_bytes: RandomBytes) -> ec.EllipticCurvePrivateKey:
    """A P-256 key. FIPS 186-5, A.2.1: 64 bits more than the order, so that the remainder is even."""
    secret = int.from_bytes(random_bytes(40), "big") % (_P256_ORDER - 1) + 1
    return ec.derive_private_key(secret, ec.SECP256R1())


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    name: str, key: ec.EllipticCurvePrivateKey, now: datetime, expires: datetime, random_bytes: RandomBytes
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_subject(name))
        .public_key(key.public_key())
        .serial_number(int.from_bytes(random_bytes(19), "big") + 1)
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(expires)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
