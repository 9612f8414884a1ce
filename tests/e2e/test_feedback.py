"""Labels from the client's signature to a signed candidate: a real gateway, real TLS, the command line."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from gateway.cli.main import main as cli
from serving.bundles.bundle import assemble, load_bundle, read_bundle, read_keys
from serving.engines import measure
from serving.engines.inprocess import InProcessEngine
from serving.train.errors import DatasetMissing
from serving.train.kiosk.data import load_fashion_mnist, split
from serving.train.pack import seal, tensor_bytes
from stockade.v1.feedback_pb2 import SubmitFeedbackRequest, SubmitFeedbackResponse
from tests.e2e.caller import calling, images, infer_body, labels
from tests.e2e.running import serving, until, verified
from tests.e2e.site import copy_site
from tests.gateway.request.labels.labelled import SUBMIT, signer
from tests.serving.tiny import signing_key, write

CALLERS = ("plenty", "single", "lapsed")
EACH = 40
LIES = 6


@pytest.fixture(scope="module")
def site(made_site, tmp_path_factory):
    """A site whose kiosk brings trusted rows, and takes labels."""
    from defenses.labels.feedback import fit_consistency

    try:
        parts = split(load_fashion_mnist().pool, 0)
    except DatasetMissing as problem:
        pytest.skip(str(problem))
    copied = copy_site(made_site, tmp_path_factory.mktemp("feedback") / "site")
    directory = copied.directory / "bundles/kiosk/1"
    files = read_bundle(directory)
    bundle = assemble(files, read_keys(trusted_of(copied)))
    engine = InProcessEngine(bundle)
    rows = [part.take(np.arange(count)) for part, count in ((parts.train, 1_500), (parts.calibrate, 2_500))]
    fitted = [(measure.evaluate(engine, part.images)["latent"], part.labels) for part in rows]
    arrays = dict(bundle.calibration) | fit_consistency(*fitted)
    manifest = {name: value for name, value in bundle.manifest.items() if name != "files"} | {"version": "7"}
    changed = {name: data for name, data in files.items() if name not in ("manifest.json", "model.sig")}
    changed[bundle.manifest["calibration"]] = tensor_bytes(arrays)
    write(seal(changed, manifest, signing_key()), copied.directory / "bundles/kiosk/7")

    def policy(document) -> None:
        kiosk = document["models"]["kiosk"]
        kiosk["serve"] = "7"
        kiosk["screens"]["evidence"]["mode"] = "shadow"
        kiosk["feedback"] = {"trusted": ["single"]}
        document["roles"]["predictor"] = [{"methods": ["*"], "models": ["*"]}]
        for name in CALLERS:
            document["principals"][name]["feedback_keys"] = [signer(name).public_key().public_bytes_raw().hex()]
        document["tenants"]["elsewhere"] = {"limits": "unlimited", "class": "standard"}
        document["principals"]["lapsed"]["tenant"] = "elsewhere"

    copied.change_policy(policy)
    return copied


def trusted_of(site):
    import yaml

    return [site.directory / name for name in yaml.safe_load(site.config.read_text())["bundles"]["trusted_keys"]]


@pytest.fixture(scope="module")
def running(site):
    with serving(site) as found:
        site.change_config(lambda document: document["listen"].update(admin=found.facts["admin"]))  # where it listens
        yield found


def command(capsys, site, *arguments):
    """A verb with --json: (exit code, what it printed)."""
    code = cli(["feedback", *map(str, arguments), "--json"])
    printed = capsys.readouterr()
    assert code != 2, printed.err
    return code, json.loads(printed.out)


def statement(request_id, row, label, name):
    from gateway.request.labels.provenance import Statement, signed_item

    now = time.time_ns()
    said = Statement(bytes.fromhex(request_id), row, "kiosk", "7", label, 0, now, now)
    return signed_item(said, name, signer(name))


def require_evaluations(status, accepted):
    """What labels say of the version: the same of the trusted ones as its agreement, and the others by themselves."""
    evaluations = {each["source"]: each for each in status["evaluations"]}
    trusted, others, [agreement] = evaluations["trusted"], evaluations["others"], status["agreements"]
    assert (trusted["labels"], trusted["right"]) == (agreement["labels"], agreement["right"])
    assert accepted - EACH <= int(others["labels"]) < accepted
    assert int(others["right"]) > 0.9 * int(others["labels"])
    assert 0 < int(trusted["calibration_error_micro"]) < 400_000


def test_labels_become_a_signed_candidate_that_serves(site, running, capsys, tmp_path):
    names = load_bundle(site.directory / "bundles/kiosk/7", trusted_of(site)).class_names
    replies, first = [], 0
    for name in CALLERS:
        with calling(site, running.facts["data"], site.bearer(name)) as caller:
            rows = slice(first, first + EACH)
            answered = caller.infer(infer_body(images()[rows]))
            assert answered.reason == "OK", answered.details
            truth = labels()[rows].astype(int)
            said = [(each + 1) % 10 if name == "lapsed" and place < LIES else each for place, each in enumerate(truth)]
            items = [statement(answered.request_id, row, names[label], name) for row, label in enumerate(said)]

            def sent(items=items, caller=caller):
                reply = caller.ask(SUBMIT, SubmitFeedbackRequest(items=items).SerializeToString())
                assert reply.reason == "OK", reply.details
                found = [each.disposition for each in SubmitFeedbackResponse.FromString(reply.body).results]
                return found if "refused" not in found else None  # until the other worker has written what it answered

            replies += until(sent, "no worker knew what was answered")
            again = caller.ask(SUBMIT, SubmitFeedbackRequest(items=items[:1]).SerializeToString())
            assert SubmitFeedbackResponse.FromString(again.body).results[0].reason == "REPLAYED"
        first += EACH
    accepted, held_back = replies.count("accepted"), replies.count("quarantined")
    assert accepted + held_back == 3 * EACH
    assert accepted > 90

    _, status = command(capsys, site, "status", site.config)
    assert {each["state"]: int(each["items"]) for each in status["counts"]} == {
        "accepted": accepted,
        "quarantined": held_back,
    }
    assert [(each["version"], int(each["labels"])) for each in status["agreements"]] == [("7", EACH)]
    require_evaluations(status, accepted)
    _, listed = command(capsys, site, "list", site.config, "--state", "quarantined", "--tenant", "elsewhere")
    assert len(listed["items"]) >= LIES - 2
    honest = listed["items"][-1]["id"]
    code, decided = command(capsys, site, "release", site.config, honest, "--reason", "looked at the picture")
    assert (code, decided["changed"]) == (0, 1)
    code, _ = command(capsys, site, "release", site.config, honest, "--reason", "again")
    assert code == 1

    code, made = command(
        capsys, site, "train", site.config, "--model", "kiosk", "--version", "8", "--signing-key", tmp_path / "made.key"
    )
    assert code == 0, made
    assert made["items"] >= 90
    assert made["accuracy_after"] > made["accuracy_before"] - 0.005
    candidate = load_bundle(site.directory / "bundles/kiosk/8", [write_public(tmp_path)])
    assert candidate.digest == made["digest"]
    assert candidate.manifest["training"]["feedback"]["batch"] == made["batch"]
    before = load_bundle(site.directory / "bundles/kiosk/7", trusted_of(site))
    one, other = (InProcessEngine(each).infer({"image": images()[:50]}) for each in (before, candidate))
    assert np.array_equal(one["latent"], other["latent"])
    assert not np.array_equal(one["logits"], other["logits"])

    def actions():
        return [entry["action"] for entry in running.entries() if entry["kind"] == "admin"]

    wanted = ["feedback-release", "feedback-release", "feedback-batch-taken", "feedback-batch-learned"]
    until(lambda: actions() == wanted, "not all that was asked for is in the log")
    entries = running.entries()
    recorded = [entry["disposition"] for entry in entries if entry["kind"] == "feedback"]
    assert (recorded.count("accepted"), recorded.count("quarantined")) == (accepted, held_back)
    assert running.counted("stockade_feedback_items_total", model="kiosk", disposition="accepted") == accepted
    assert verified(site).exit_code == 0


def write_public(directory):
    from serving.train.pack import open_signing_key, public_pem

    file = directory / "made.pub"
    file.write_bytes(public_pem(open_signing_key(directory / "made.key")))
    return file


def test_an_operator_is_told_what_cannot_be_done(site, running, capsys, tmp_path):
    assert cli(["feedback", "show", str(site.config), "999999"]) == 1
    assert "there is no label 999999" in capsys.readouterr().err
    key = tmp_path / "label.key"
    assert cli(["feedback", "key", "--out", str(key)]) == 0
    assert capsys.readouterr().out.startswith('feedback_keys: ["')
    assert key.stat().st_mode & 0o777 == 0o600
    assert cli(["feedback", "key", "--out", str(key)]) == 2
