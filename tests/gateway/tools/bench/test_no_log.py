from itertools import islice

from gateway.tools.bench.audit_load import append_for, listening, new_signer, records
from ops.audit.store.client import AuditClient


async def test_it_acknowledges_every_append_and_keeps_none(tmp_path):
    path, signer = tmp_path / "s", new_signer()
    with listening(path, "gateway.tools.bench.no_log", str(path), signer.name):
        found = await append_for(path, islice(records(signer), 300), 8, lambda _done: True)
        client = AuditClient(path, backlog_bytes_max=1 << 20, append_timeout_ms=20_000)
        await client.connect()
        assert client.origin == signer.name
        await client.close()
    assert found.count == 300
    assert {each.name for each in tmp_path.iterdir()} <= {"s", "recorder.err"}
    assert (tmp_path / "recorder.err").read_text() == ""
