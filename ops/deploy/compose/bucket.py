# ruff: noqa: INP001  a script in a container, never imported
"""Makes a bucket with Object Lock, if it is not there: `bucket.py ENDPOINT BUCKET S3.JSON [DAYS [WRITER]]`.

Object Lock can only be had from a bucket's beginning, and brings versioning along. With DAYS, what is put there from
now on is locked for so long, in COMPLIANCE mode: by nobody to be changed or removed. With WRITER, an identity of
S3.JSON that may write, that one may not hide objects either, nor let them expire. AWS Signature Version 4.
"""

import hashlib
import hmac
import json
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

REGION = "us-east-1"
TIMEOUT_S = 20
RETENTION = """<ObjectLockConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">\
<ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>COMPLIANCE</Mode><Days>{}</Days>\
</DefaultRetention></Rule></ObjectLockConfiguration>"""

FORBIDDEN = ("DeleteObject", "DeleteObjectVersion", "PutLifecycleConfiguration")


def policy_against(writer: str, bucket: str) -> bytes:
    """Return a bucket policy that takes FORBIDDEN from one identity, whatever else it may."""
    statement = {
        "Effect": "Deny",
        "Principal": {"AWS": f"arn:aws:iam::000000000000:user/{writer}"},
        "Action": [f"s3:{action}" for action in FORBIDDEN],
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]}).encode()


def signed(
    method: str, url: str, headers: dict[str, str], access: str, secret: str, *, body: bytes = b""
) -> urllib.request.Request:
    """Return a request, signed (the steps of AWS's documentation, in their order)."""
    parts = urlsplit(url)
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    headers = {**headers, "host": parts.netloc, "x-amz-date": now, "x-amz-content-sha256": digest}
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = f"{method}\n{parts.path}\n{parts.query}\n{lines}\n{names}\n{digest}"
    scope = f"{now[:8]}/{REGION}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return urllib.request.Request(url, body or None, headers, method=method)  # noqa: S310  compose says which URL


def main(endpoint: str, bucket: str, credentials: str, days: str = "", writer: str = "") -> int:
    """Make the bucket and see that it locks objects."""
    found = json.loads(Path(credentials).read_text())["identities"][0]["credentials"][0]
    who = (found["accessKey"], found["secretKey"])
    url = f"{endpoint}/{bucket}"

    def ask(method: str, query: str = "", body: bytes = b"", **headers: str) -> bytes:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = signed(method, url + query, named, *who, body=body)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310  the endpoint is the one of docker-compose.yml
            return bytes(answer.read())

    try:
        ask("HEAD")
    except urllib.error.HTTPError as refusal:
        if refusal.code != 404:
            raise
        ask("PUT", x_amz_bucket_object_lock_enabled="true")
    if b"<ObjectLockEnabled>Enabled<" not in ask("GET", "?object-lock="):
        sys.stderr.write(f"{bucket} is there without Object Lock; name another bucket\n")
        return 1
    if days:
        ask("PUT", "?object-lock=", RETENTION.format(int(days)).encode())
        if f"<Days>{days}</Days>".encode() not in ask("GET", "?object-lock="):
            sys.stderr.write(f"{bucket} does not say that it locks what it is given for {days} days\n")
            return 1
    if writer:
        ask("PUT", "?policy=", policy_against(writer, bucket))
    kept = f", for {days} days" if days else ""
    sys.stdout.write(f"{bucket}: Object Lock is enabled{kept}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
