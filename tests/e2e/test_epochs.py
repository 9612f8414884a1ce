"""A whole gateway whose log changes epochs under load: callers notice nothing, and every reader goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.cli.main import main
from ops.audit.log.checkpoint import open_checkpoint, parse_vkey
from ops.audit.log.epochs import epoch_at, epochs_of, number_of, numbered, place_of
from ops.audit.log.tlog_proof import parse_proof
from ops.audit.log.trust_policy import TrustedLog, TrustPolicy
from ops.audit.reader.read import LogReader
from tests.e2e.caller import INFER, Reply, calling, images, infer_body
from tests.e2e.running import Running, Series, serving, total, until
from tests.e2e.site import Site, copy_site
from tests.e2e.test_overload import ended
from tests.e2e.test_witnesses import receipt_of

RECORDS = 1000  # of an epoch: the least that the configuration takes
IN_FLIGHT = 50
LINES = 1_000_000


@dataclass
class Rolled:
    """A gateway that has written three epochs and has stopped, and what was seen of it while it served."""

    site: Site
    replies: list[Reply]
    receipts: list[bytes]  # of the first answer, before and after its epoch was closed, and of the last one
    remembered: bytes  # the checkpoint after the first answer
    followed: list[dict]  # what `tail -f` printed
    series: Series

    def entries(self) -> dict[str, list[dict]]:
        """The log by the origins of its epochs."""
        found = {}
        for epoch in epochs_of(self.site.log, parse_vkey(self.site.vkey)):
            reader = LogReader.open(epoch.directory, epoch.vkey)
            found[epoch.vkey.name] = [*map(json.loads, reader.entries(0, reader.checkpoint.size))]
        return found


def place(reply: Reply) -> tuple[str, int]:
    """Where an answer says that its record is."""
    return str(reply.trailers["x-stockade-audit-origin"]), int(reply.trailers["x-stockade-audit-index"])


def number(reply: Reply, site: Site) -> int:
    """The number of an answer's record over all epochs."""
    origin, index = place(reply)
    epoch = number_of(parse_vkey(site.vkey).name, origin)
    assert epoch is not None
    return numbered(epoch, index)


def ask_until(running: Running, epoch: int) -> list[Reply]:
    """Ask for one image after the other, many at a time, until the answers are recorded in this epoch."""
    with calling(running.site, running.facts["data"], running.site.bearer("plenty")) as caller:
        ask = caller.channel.unary_unary(INFER)
        replies: list[Reply] = []
        while not replies or number(replies[-1], running.site) < numbered(epoch, 0):
            bodies = [infer_body(images()[at : at + 1]) for at in range(IN_FLIGHT)]
            calls = [ask.future(body, metadata=caller.metadata, timeout=60) for body in bodies]
            replies += map(ended, calls)
        return replies


@contextmanager
def following(site: Site, out: Path) -> Iterator[None]:
    """`stockade audit tail -f`, until the block ends."""
    command = [sys.executable, "-m", "gateway", "audit", "tail", str(site.directory), "-f", "-n", str(LINES), "--json"]
    with out.open("wb") as sink, subprocess.Popen(command, stdout=sink) as process:
        try:
            yield
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


def read(out: Path) -> list[dict]:
    """The entries that were printed whole."""
    return [json.loads(line)["entry"] for line in out.read_text().splitlines(keepends=True) if line.endswith("\n")]


def replicated(away: Path, site: Site) -> int:
    """How many entries of the third epoch a replica in a directory has; -1 while it does not know of that."""
    vkey = epoch_at(site.log, parse_vkey(site.vkey), 3).vkey
    note = place_of(away, 3) / "checkpoint"
    return open_checkpoint(note.read_bytes(), [vkey]).size if note.exists() else -1


@pytest.fixture(scope="module")
def rolled(made_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Rolled:
    home = tmp_path_factory.mktemp("rolled")
    site, mirror = copy_site(made_site, home / "site"), str(home / "mirror")
    replication = {"url": (home / "away").as_uri(), "every": "100ms"}
    epochs = {"records_max": RECORDS, "months": 0}
    site.change_config(lambda config: config["audit"].update(epochs=epochs, replication=replication))
    site.change_policy(lambda policy: policy["tenants"]["plenty"].update(capture="all"))
    site.change_policy(lambda policy: policy["models"]["kiosk"].update(capture="all"))
    with serving(site) as running:
        replies = ask_until(running, 1)
        first = number(replies[0], site)
        early = until(lambda: receipt_of(site, running, first), "the first answer is not public")
        remembered = (site.log / "checkpoint").read_bytes()
        assert main(["audit", "mirror", str(site.directory), mirror]) == 0
        with following(site, home / "followed"):
            replies += ask_until(running, 3)
            newest = max(replies, key=lambda each: number(each, site))
            last = until(lambda: receipt_of(site, running, number(newest, site)), "the last answer is not public")
            until(lambda: newest.request_id in (home / "followed").read_text(), "tail does not follow")
        until(lambda: replicated(home / "away", site) > place(newest)[1], "the replica does not follow")
        receipts = [early, receipt_of(site, running, first), last]
        series = running.series()
    assert main(["audit", "mirror", str(site.directory), mirror]) == 0
    return Rolled(site, replies, receipts, remembered, read(home / "followed"), series)


def run(capsys, *words: object) -> tuple[int, dict]:
    code = main(["audit", *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_nobody_is_refused_and_every_record_is_where_its_answer_says(rolled):
    assert {reply.reason for reply in rolled.replies} == {"OK"}
    log = rolled.entries()
    assert len(log) == 3
    found = {(origin, at): entry["id"] for origin, entries in log.items() for at, entry in enumerate(entries)}
    assert {place(reply): reply.request_id for reply in rolled.replies}.items() <= found.items()
    served = [entry["id"] for entries in log.values() for entry in entries if entry.get("method") == INFER]
    assert sorted(served) == sorted(reply.request_id for reply in rolled.replies), "each once, and no other"


def test_the_page_says_which_epoch_is_written(rolled):
    assert total(rolled.series, "stockade_audit_epoch") == 3
    assert total(rolled.series, "stockade_audit_epochs_begun_total", when="serving") == 2
    assert total(rolled.series, "stockade_audit_epochs_begun_total", when="start") == 0
    assert total(rolled.series, "stockade_audit_epoch_due_timestamp_seconds") == 0
    assert 0 < total(rolled.series, "stockade_audit_tree_size") < RECORDS


def test_the_chain_verifies_and_is_listed(rolled, tmp_path, capsys):
    remembered = tmp_path / "remembered"
    remembered.write_bytes(rolled.remembered)
    code, said = run(capsys, "verify", rolled.site.directory, "--remembered", remembered)
    assert (code, [each["verdict"] for each in said["epochs"]]) == (0, ["verified"] * 3)
    code, listed = run(capsys, "epochs", rolled.site.directory)
    assert (code, [each["state"] for each in listed]) == (0, ["closed", "closed", "open"])
    assert all(each["size"] > RECORDS for each in listed[:2]), "and the entry that closes it"


def test_receipts_from_before_and_after_the_epoch_was_closed_verify(rolled):
    trusted = TrustPolicy(logs=[TrustedLog(parse_vkey(rolled.site.vkey))])
    first = rolled.replies[0]
    last = max(rolled.replies, key=lambda each: number(each, rolled.site))
    for receipt, reply in zip(rolled.receipts, (first, first, last), strict=True):
        proof = parse_proof(receipt)
        assert proof.verify(trusted).checkpoint.origin == place(reply)[0]
        assert json.loads(proof.extra or b"{}")["id"] == reply.request_id


def test_who_follows_the_log_is_told_everything_once(rolled):
    told = [each["id"] for each in rolled.followed if each.get("method") == INFER]
    assert sorted(told) == sorted(reply.request_id for reply in rolled.replies)
    assert [each["kind"] for each in rolled.followed].count("epoch-close") == 2


def test_the_replica_and_the_mirror_have_every_epoch(rolled, capsys):
    home, whole = rolled.site.directory.parent, [*map(len, rolled.entries().values())]
    code, said = run(capsys, "verify", home / "mirror", "--vkey", rolled.site.vkey)
    assert (code, [each["size"] for each in said["epochs"]]) == (0, whole)
    code, said = run(capsys, "verify", (home / "away").as_uri(), "--vkey", rolled.site.vkey)
    assert (code, [each["size"] for each in said["epochs"]][:2]) == (0, whole[:2])


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_every_epoch_is_asked_and_replayed_by_itself(rolled, epoch, tmp_path, capsys):
    pytest.importorskip("duckdb")
    question = f"SELECT count(*) n FROM entries WHERE method = '{INFER}'"
    index = ("--index", tmp_path / "index")
    code, said = run(capsys, "query", rolled.site.directory, question, "--epoch", epoch, *index)
    served = sum(numbered(epoch, 0) <= number(each, rolled.site) < numbered(epoch + 1, 0) for each in rolled.replies)
    assert (code, said["rows"]) == (0, [{"n": served}])
    code, said = run(capsys, "replay", rolled.site.directory, "--epoch", epoch)
    assert (code, said["differences"]) == (0, [])
    assert said["steps"]["output"]["equal"] == served
