# ruff: noqa: INP001  a script in a container, never imported
"""Closes SeaweedFS's gRPC port of S3, where without this anybody may add who is allowed in: `closed_port.py DIRECTORY`.

It writes `security.toml` and a certificate that is its own authority, with its key. The port then asks callers for a
certificate of that authority; nobody has one but the server itself, which makes no such calls.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nobody calls here")])
WHERE = "/etc/seaweedfs"
SETTINGS = f"""\
# Made by closed_port.py.
[grpc]
ca = "{WHERE}/s3-grpc.crt"

[grpc.s3]
cert = "{WHERE}/s3-grpc.crt"
key = "{WHERE}/s3-grpc.key"
"""


def main(directory: str) -> int:
    """Write the three files."""
    to = Path(directory)
    to.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC))
        .not_valid_after(datetime(9999, 12, 31, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (to / "s3-grpc.key").write_bytes(private)
    (to / "s3-grpc.crt").write_bytes(certificate.public_bytes(pem))
    (to / "security.toml").write_text(SETTINGS)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
