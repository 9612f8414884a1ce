"""The recorder's settings, and how they travel to its process: a JSON file. Units last in the names."""

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

import orjson

from ops.audit.errors import SettingsError
from ops.process.logging import LEVELS, Format, Level

MIB = 1 << 20
GROUP_RECORDS_LIMIT = 4096
GROUP_BYTES_LIMIT = 4 * MIB
EPOCH_RECORDS_LIMIT = 1 << 32
HEARTBEAT_MS = 5000
SOCKET_OWNER = 0o600
SOCKET_GROUP = 0o660


@dataclass(frozen=True, slots=True)
class RecorderSettings:
    """Where the log lives and how the recorder behaves.

    `directory` is what auditors get; everything an auditor has no business with is below `state_directory`, which
    must be on the same filesystem (staged tiles are renamed into place).
    """

    directory: Path  # the public log: checkpoint, tile/, blobs/
    socket: Path  # unix socket on which workers append
    origin: str  # the log's name; also the name of its key
    signing_key: Path  # PRIVATE+KEY+... of the origin; its memory stands beside it as <name>.signed
    state_directory: Path  # segments, staging, lock database
    rings_directory: Path  # in-flight rings of the workers
    socket_mode: int = SOCKET_OWNER  # or SOCKET_GROUP: workers run as another user of its group
    build: str = "0"  # build of this program, as entries carry it
    metrics_directory: Path | None = None  # multiprocess metrics of the gateway, where they are on
    log_level: Level = "info"  # of the lines on standard error, and their form
    log_format: Format = "auto"

    group_records_max: int = GROUP_RECORDS_LIMIT  # a commit closes at this many records ...
    group_bytes_max: int = GROUP_BYTES_LIMIT  # ... or bytes, whichever comes first
    append_bytes_max: int = 24 * MIB  # one append with its payloads; larger ones are refused
    segment_bytes: int = 64 * MIB
    backlog_records_max: int = 262_144  # committed but unpublished; past it appends are refused
    publish_every_ms: int = 1000
    publish_records: int = 8192  # publish early when this many wait
    heartbeat_ms: int = HEARTBEAT_MS
    disk_warn_percent: int = 85
    disk_stop_percent: int = 95
    epoch_records_max: int = 0  # an epoch is closed when it has so many records; 0: never for that
    epoch_months: int = 0  # ... or when it began so many months of the calendar (UTC) ago; 0: never for that
    reserve_bytes: int = 64 * MIB  # given up at disk_stop_percent, so that closing entries can be published

    def __post_init__(self) -> None:
        limits = {
            "group_records_max": (1, GROUP_RECORDS_LIMIT),
            "group_bytes_max": (65_536, GROUP_BYTES_LIMIT),
            "append_bytes_max": (65_536, 256 * MIB),
            "segment_bytes": (2 * self.append_bytes_max, 1024 * MIB),
            "backlog_records_max": (self.group_records_max, 16_777_216),
            "publish_every_ms": (1, 60_000),
            "publish_records": (1, 65_536),
            "heartbeat_ms": (10, 60_000),
            "disk_warn_percent": (1, self.disk_stop_percent),
            "disk_stop_percent": (3, 100),
            "reserve_bytes": (0, 1024 * MIB),
            "epoch_records_max": (0, EPOCH_RECORDS_LIMIT),
            "epoch_months": (0, 12),
        }
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise SettingsError(f"{name} is {value}, not between {least} and {most}")
        if self.socket_mode not in (SOCKET_OWNER, SOCKET_GROUP):
            raise SettingsError(f"a socket of mode {self.socket_mode:04o} lets in others than its owner and its group")
        if self.log_level not in LEVELS or self.log_format not in get_args(Format):
            raise SettingsError(f"no log has level {self.log_level} and format {self.log_format}")
        if not self.origin or self.origin != self.origin.strip() or "+" in self.origin or "\n" in self.origin:
            raise SettingsError("the origin is empty or holds spaces around it, a plus or a newline")

    def to_json(self) -> bytes:
        return orjson.dumps(asdict(self), default=os.fspath, option=orjson.OPT_INDENT_2)

    @classmethod
    def from_json(cls, data: bytes) -> "RecorderSettings":
        """The inverse of `to_json`.

        Raises:
            SettingsError: malformed, unknown or missing names, wrong types, values out of limits.
        """
        try:
            values: Any = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise SettingsError("the settings are not JSON") from error
        if not isinstance(values, dict):
            raise SettingsError("the settings are not an object")
        known = {field.name: field.type for field in fields(cls)}
        unknown = sorted(values.keys() - known.keys())
        if unknown:
            raise SettingsError(f"unknown settings: {', '.join(unknown)}")
        for name, value in values.items():
            kind = known[name]
            if isinstance(value, bool) or (kind is int) != isinstance(value, int):
                raise SettingsError(f"{name} has the wrong type")
            if kind is not int and not (value is None and name == "metrics_directory"):
                if not isinstance(value, str):
                    raise SettingsError(f"{name} has the wrong type")
                values[name] = Path(value) if kind in (Path, Path | None) else value
        try:
            return cls(**values)
        except TypeError as error:
            raise SettingsError(f"missing settings: {error}") from error
