"""What can go wrong with evidence.

```
RegistryError
├── DatasetRejected     the labelled data cannot be used for this model
├── NotMeasurable       this model cannot be evaluated here
├── EvidenceRejected    a file of evidence is not one of ours
└── KeyRejected         a key cannot sign or verify approvals
```

Messages are whole sentences for the person who runs the verb, or reads the log.
"""

from __future__ import annotations


class RegistryError(Exception):
    """Root of this package's errors."""


class DatasetRejected(RegistryError):
    """The labelled data cannot be used for this model."""


class NotMeasurable(RegistryError):
    """The model cannot be evaluated here."""


class EvidenceRejected(RegistryError):
    """A file of evidence is missing, unreadable, too large, or not one of ours."""


class KeyRejected(RegistryError):
    """A key is not an Ed25519 key in the form that is asked for."""
