"""`stockade models adopt` at the terminal: what its arguments mean, and what it says. The work is `adopt`'s."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from gateway.config.document import unusable
from gateway.config.engine import OipTls
from gateway.config.values import is_loopback
from gateway.tools.registry.adopt import Adopted, AdoptRefused, Wanted, adopt, declared
from gateway.tools.terminal import print_json
from serving.bundles.manifest import ENCODER
from serving.errors import ServingError
from serving.train.errors import SigningKeyUnusable

if TYPE_CHECKING:
    from serving.bundles.manifest import TensorSpec

EX_OK, EX_REFUSED, EX_UNUSABLE = 0, 1, 2


def run(options: SimpleNamespace) -> int:
    """The verb. Returns 0; 1 when the server or the model would not do; 2 when an argument cannot be used."""
    try:
        wanted = wanted_of(options)
        adopted = adopt(wanted, options.out, options.signing_key)
    except (AdoptRefused, ServingError) as problem:
        return _fail(str(problem), EX_REFUSED)
    except (SigningKeyUnusable, ValueError) as problem:
        return _fail(str(problem), EX_UNUSABLE)
    except OSError as problem:
        return _fail(unusable(problem) if problem.filename else str(problem), EX_UNUSABLE)
    if options.json:
        print_json(as_json(adopted))
    else:
        render(adopted, options, Console(highlight=False, soft_wrap=True))
    return EX_OK


def _fail(text: str, code: int) -> int:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]no bundle was written:[/red] {escape(text)}")
    return code


def wanted_of(options: SimpleNamespace) -> Wanted:
    """Return what the arguments ask for. ValueError: one of them cannot be used."""
    name, slash, version = (options.bundle or "").partition("/")
    if options.bundle and not (name and slash and version):
        raise ValueError(f"{options.bundle!r} is not NAME/VERSION")
    tls = tls_of(options)
    if tls is None and not is_loopback(options.server) and not options.unsafe_plaintext:
        raise ValueError(f"{options.server} is another machine; name who signed its certificate with --ca")
    return Wanted(
        server=options.server,
        model=options.model,
        model_version=options.version,
        name=name or None,
        version=version or None,
        tls=tls,
        token=options.token,
        inputs=tuple(declared(text) for text in options.input),
        outputs=tuple(declared(text) for text in options.output),
        encoder=options.encoder,
        calibration=options.calibration,
    )


def tls_of(options: SimpleNamespace) -> OipTls | None:
    """Return how the server is spoken to. ValueError: half of what TLS needs."""
    if options.ca is None:
        if options.certificate or options.key or options.server_name:
            raise ValueError("--certificate, --key and --server-name need --ca")
        return None
    if (options.certificate is None) != (options.key is None):
        raise ValueError("--certificate and --key belong together")
    return OipTls(ca=options.ca, certificate=options.certificate, key=options.key, server_name=options.server_name)


def as_json(adopted: Adopted) -> dict[str, Any]:
    """For machines."""
    bundle = adopted.bundle
    return {
        "name": bundle.name,
        "version": bundle.version,
        "digest": bundle.digest,
        "directory": str(adopted.directory),
        "public_key": str(adopted.public_key),
        "inputs": [_text(spec) for spec in bundle.inputs],
        "outputs": [_text(spec) for spec in bundle.outputs],
        "upstream": bundle.manifest["upstream"],
        "notes": list(adopted.notes),
    }


def render(adopted: Adopted, options: SimpleNamespace, console: Console) -> None:
    """What was made, and what to put into the two files. Nothing is wrapped: it will be copied."""
    bundle = adopted.bundle
    own = bundle.manifest["roles"].get(ENCODER, ())

    def say(text: str) -> None:
        console.print(text, markup=False)

    say(f"made {adopted.directory}, digest {bundle.digest}")
    for spec in bundle.inputs:
        say(f"input   {_text(spec)}")
    for spec in bundle.outputs:
        say(f"output  {_text(spec)}{', from the encoder' if spec.name in own else ''}")
    for note in adopted.notes:
        say(f"note: {note}")
    say(f"\nIn stockade.yaml, with {adopted.public_key} among bundles.trusted_keys:\n")
    tls = f", tls: {{ca: {options.ca}}}" if options.ca else ""
    unsafe = ", unsafe_plaintext: true" if options.unsafe_plaintext and not options.ca else ""
    token = f", token: {options.token}" if options.token else ""
    say(f'engine:\n  kind: oip\n  oip: {{addresses: ["{options.server}"]{tls}{unsafe}{token}}}')
    say(f'\nIn policy.yaml, with {bundle.name} in a role:\n\nmodels:\n  {bundle.name}: {{serve: "{bundle.version}"}}')


def _text(spec: TensorSpec) -> str:
    return f"{spec.name}:{spec.datatype}:{','.join(str(size) for size in spec.shape)}"
