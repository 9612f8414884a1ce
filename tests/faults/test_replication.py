"""A replica's store that dies and comes back: nothing is named that is not there, and it goes on. Half a minute."""

from __future__ import annotations

import os
import time

import pytest

from ops.audit.copies.object_store import open_store
from ops.audit.errors import StoreUnavailable
from tests.ops.audit.copies.test_replicator import grow, sound
from tests.ops.audit.copies.test_replicator_s3 import of
from tests.ops.audit.open_log import open_log
from tests.seaweed import SeaweedFS, needs_seaweed

pytestmark = [
    needs_seaweed,
    pytest.mark.skipif(
        os.environ.get("STOCKADE_FAULTS") != "full", reason="waits for a store to start: STOCKADE_FAULTS=full"
    ),
]
URL = "s3://locked/log"


def test_a_store_that_is_killed_is_waited_for(tmp_path):
    own = SeaweedFS()
    try:
        own.start()
        own.make_bucket("locked", 2)
        store = open_store(own.place(URL))
        with open_log(tmp_path / "home") as log:
            grow(log, 600)
            of(log, store).replicate()
            grow(log, 300)
            own.stop()
            with pytest.raises(StoreUnavailable):
                of(log, store).replicate()
            own.start()
            end = time.monotonic() + 120
            while True:
                try:  # it says that it is healthy before it finds its volumes again
                    assert of(log, store).replicate().size == log.appender.size
                except StoreUnavailable:
                    assert time.monotonic() < end
                    time.sleep(0.1)
                else:
                    break
            sound(store, tmp_path / "fetched", log.appender.size)
    finally:
        own.close()
