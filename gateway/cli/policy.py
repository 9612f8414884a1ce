"""`stockade policy`: sign the policy; `reload` is in `gateway.cli.operations`."""

from __future__ import annotations

from pathlib import Path

from gateway.cli.arguments import FILE, JSON, command, group, option
from gateway.cli.operations import add_to

app = group("sign and reload the policy")


@command(app, "sign")
def sign(
    file: Path = FILE,
    key: Path | None = option("--key FILE", "private key (default: policy.key beside the configured public key)", None),
    json: bool = JSON,
) -> int:
    """Sign policy.yaml after a change."""
    from gateway.config.document import FileRejected
    from gateway.config.load import load_config
    from gateway.policy.load import sign_checked
    from gateway.tools.terminal import fail, out, print_json

    try:
        source = load_config(file).policy
        policy = sign_checked(source.file, key or source.public_key.with_suffix(".key"), source.public_key)
    except (FileRejected, OSError) as problem:
        return fail(problem)
    if json:
        print_json({"file": str(source.file), "revision": policy.revision, "digest": policy.digest})
    else:
        out.print(f"signed {source.file.name}: revision {policy.revision}, digest {policy.digest}")
    return 0


add_to(app, "policy")
