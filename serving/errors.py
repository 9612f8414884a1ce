"""Everything that can go wrong while a model is loaded or run.

```
ServingError
├── BundleRejected      a bundle is not exactly what a trusted key signed, or holds what we never load
├── BundleDuplicate     two bundles claim one name and version
├── QueueFull           a batcher's queue is at its bound
├── BatcherClosed       an item was submitted after close
├── ReplicaRefused      a replica does not start: its deployment is wrong, or its bundle is
└── EngineError
    ├── GraphRejected   the runtime cannot build a session, or the graph does not match its manifest
    ├── BackendFailed   a run raised, or returned something other than what the manifest promises
    ├── BackendUnavailable  nobody who runs the model took the request, also when asked again
    │   └── DeploymentStale  who runs the model holds another bundle than the one that is meant
    ├── BackendTimedOut     who runs the model did not answer in time; whether it ran is unknown
    └── EngineClosed    infer was called after close
```

Errors carry data; the sentence a client sees is chosen by the gateway. Training has its own tree in
`serving.train.errors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path


class Rejection(StrEnum):
    """Why a bundle was rejected; one word for each rule of `serving.bundles.bundle`."""

    UNREADABLE = "unreadable"
    NOT_A_FILE = "not_a_file"
    NAME = "name"
    KIND = "kind"
    SIZE = "size"
    COUNT = "count"
    UNSIGNED = "unsigned"
    SIGNATURE_MALFORMED = "signature_malformed"
    SIGNATURE_WRONG = "signature_wrong"
    KEY_UNTRUSTED = "key_untrusted"
    KEY_UNUSABLE = "key_unusable"
    FILE_MISSING = "file_missing"
    FILE_EXTRA = "file_extra"
    DIGEST = "digest"
    MANIFEST = "manifest"
    GRAPH = "graph"
    TENSORS = "tensors"


class ServingError(Exception):
    """Root of this package's errors."""


_AGAIN = "copy the bundle again from where it was signed"
_REMOVE = "a bundle holds plain files of its own kinds alone; remove it, or copy the bundle again"
_MAKE = "it is signed and cannot be used; make the bundle again, or take another version"
_ADVICE: Mapping[Rejection, str] = {
    Rejection.UNREADABLE: "let the user of the gateway read it",
    Rejection.NOT_A_FILE: _REMOVE,
    Rejection.NAME: _REMOVE,
    Rejection.KIND: _REMOVE,
    Rejection.SIZE: "it is larger than it may be; make a smaller one",
    Rejection.COUNT: "remove what does not belong there",
    Rejection.UNSIGNED: "sign the bundle, or copy it again with its signature",
    Rejection.SIGNATURE_MALFORMED: _AGAIN,
    Rejection.SIGNATURE_WRONG: _AGAIN,
    Rejection.KEY_UNTRUSTED: "if you trust who signed it, add the signer's public key to bundles.trusted_keys",
    Rejection.KEY_UNUSABLE: "name an ECDSA P-256 public key in PEM in bundles.trusted_keys",
    Rejection.FILE_MISSING: _AGAIN,
    Rejection.FILE_EXTRA: "nobody signed it; remove it, or copy the bundle again",
    Rejection.DIGEST: f"it is not what was signed; {_AGAIN}",
    Rejection.MANIFEST: _MAKE,
    Rejection.GRAPH: _MAKE,
    Rejection.TENSORS: _MAKE,
}


class BundleRejected(ServingError):
    """A bundle was refused; nothing of it has been interpreted beyond the failing check.

    `directory` is where it stands, as far as it stands anywhere: then the message says so, and what to do.
    """

    def __init__(self, reason: Rejection, file: str, problem: str = "", directory: Path | None = None) -> None:
        where, advice = (f"{directory}: ", f"; {_ADVICE[reason]}") if directory is not None else ("", "")
        super().__init__(f"{where}{file}: {reason.value}" + (f" ({problem})" if problem else "") + advice)
        self.reason = reason
        self.file = file
        self.problem = problem
        self.directory = directory


class BundleDuplicate(ServingError):
    """Two bundles claim the same name and version."""

    def __init__(self, name: str, version: str) -> None:
        super().__init__(f"two bundles are {name!r} version {version!r}; keep one of them")
        self.name = name
        self.version = version


class QueueFull(ServingError):
    """A batcher's queue is at its bound; the item was not taken."""

    def __init__(self, retry_after_ms: int) -> None:
        super().__init__(f"retry after {retry_after_ms} ms")
        self.retry_after_ms = retry_after_ms


class BatcherClosed(ServingError):
    """A batcher takes nothing more; the item was not taken."""


class ReplicaRefused(ServingError):
    """A replica does not start. The sentence is for who deployed it; of one argument, so that it can be pickled."""


class EngineError(ServingError):
    """Root of what an engine raises about `model`, its name and version.

    `problem` may quote the runtime, and through it what was sent: it goes nowhere. `remark` says what went wrong in our
    own words alone: it may stand in the log.
    """

    def __init__(self, model: str, problem: str = "", *, remark: str = "") -> None:
        super().__init__(f"{model}: {problem}" if problem else model)
        self.model = model
        self.problem = problem
        self.remark = remark


class GraphRejected(EngineError):
    """No session can be made of this graph, or its tensors are not the manifest's."""


class BackendFailed(EngineError):
    """A run failed."""


class BackendUnavailable(EngineError):
    """Nobody who runs the model took the request, also when asked again; no answer was seen."""


class DeploymentStale(BackendUnavailable):
    """Who runs the model holds another bundle. Digests are SHA-256, hex, of the manifests."""

    def __init__(self, model: str, wanted: str, found: str) -> None:
        remark = f"bundle {wanted} is meant and {found} is there; run `stockade ray deploy` again"
        super().__init__(model, remark, remark=remark)
        self.wanted = wanted
        self.found = found


class BackendTimedOut(EngineError):
    """Who runs the model did not answer within `timeout_ms`. It is not asked again: it may be at work still."""

    def __init__(self, model: str, timeout_ms: int) -> None:
        remark = f"no answer within {timeout_ms} ms"
        super().__init__(model, remark, remark=remark)
        self.timeout_ms = timeout_ms


class EngineClosed(EngineError):
    """The engine was closed before this call."""
