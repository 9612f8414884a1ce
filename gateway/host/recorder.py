"""The recorder's settings as the configuration has them, and `stockade recorder`: a recorder that nobody else keeps.

It reads stockade.yaml and, of all that stands there, only the log's key; a user of its own can run it. Whoever started
it starts it again. After a failed sync it also reads what the replica and the witnesses are asked with (`doubt`).
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

from gateway.config.load import load_config
from gateway.config.place import place_of
from gateway.host.doubt import doubt_of
from ops.audit.store.recorder_main import run
from ops.audit.store.settings import RecorderSettings
from ops.process.logging import configure

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.config.config import Config
    from gateway.config.place import Place

RECORDER = "recorder"
"""Its name among the processes of a host."""


class RecorderManaged(Exception):
    """`stockade serve` runs the recorder of this gateway. The message is for the person at the terminal."""


def recorder_settings(config: Config, place: Place) -> RecorderSettings:
    """Return what the recorder of this gateway needs to know."""
    epochs = config.audit.epochs
    return RecorderSettings(
        directory=config.audit.directory,
        socket=place.socket,
        origin=config.audit.origin,
        signing_key=config.audit.signing_key,
        state_directory=config.audit.state_directory,
        rings_directory=place.rings,
        socket_mode=place.modes.socket,
        build=version("stockade"),
        metrics_directory=place.metrics,
        log_level=config.log.level,
        log_format=config.log.format,
        publish_every_ms=config.audit.publish_every_ms,
        epoch_records_max=0 if epochs is None else epochs.records_max,
        epoch_months=0 if epochs is None else epochs.months,
    )


def run_alone(config_file: Path, profile: str | None = None) -> int:
    """Run the recorder of this configuration until it is told to stop; returns the exit code.

    Raises:
        ConfigRejected: the file cannot be used.
        RecorderManaged: the gateway would start a recorder of its own.
    """
    config = load_config(config_file, profile)
    if config.audit.recorder != "external":
        advice = f"write `recorder: external` under `audit` in {config_file} to run it apart"
        raise RecorderManaged(f"`stockade serve` runs the recorder of this gateway; {advice}")
    place = place_of(config)
    log = configure(config.log.level, sys.stderr, format=config.log.format, role=RECORDER)
    doubt = doubt_of(config, place, log)

    def settings() -> RecorderSettings:
        place.make_shared()
        doubt.settle()
        return recorder_settings(config, place)

    code = run(settings)
    doubt.ended(code)
    return code
