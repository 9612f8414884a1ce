"""The images that compose, Kubernetes, the Dockerfile and the documents name: the same everywhere, and pinned by one
command. The registry is a stand-in; compose is the real one where it is installed."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from ops.audit.store.settings import RecorderSettings

ROOT = Path(__file__).parents[4]
PIN = ROOT / "ops/deploy/compose/pin.sh"
COMPOSE = (ROOT / "docker-compose.yml").read_text()
IMAGES = dict(re.findall(r"\$\{([A-Z_]+_IMAGE):-([^}]+)\}", COMPOSE))
OURS = {"STOCKADE_IMAGE", "STOCKADE_RAY_IMAGE"}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def digest_of(image: str) -> str:
    return f"sha256:{hashlib.sha256(image.encode()).hexdigest()}"


REGISTRY = """#!/bin/sh
# `docker buildx imagetools inspect IMAGE`, as buildx 0.13 prints an index of two platforms
[ "$1 $2 $3" = "buildx imagetools inspect" ] || exit 9
[ "$4" != "$GONE" ] || { echo "ERROR: $4: not found" >&2; exit 1; }
digest=$(printf %s "$4" | sha256sum | cut -d' ' -f1)
echo "Name:      docker.io/library/$4"
echo "MediaType: application/vnd.oci.image.index.v1+json"
[ "$4" = "$SILENT" ] || echo "Digest:    sha256:$digest"
echo "Manifests: "
echo "  Name:      docker.io/library/$4@sha256:0000000000000000000000000000000000000000000000000000000000000000"
"""


def pin(place: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    docker = place / "bin/docker"
    docker.parent.mkdir(exist_ok=True)
    docker.write_text(REGISTRY)
    docker.chmod(0o755)
    told = {"PATH": f"{docker.parent}:/usr/bin:/bin", "GONE": "", "SILENT": "", **environment}
    return subprocess.run([PIN], env=told, cwd=place, capture_output=True, text=True, check=False)


def test_every_image_of_others_is_pinned_under_its_version(tmp_path):
    done = pin(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    pinned = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert pinned == {name: f"{image}@{digest_of(image)}" for name, image in IMAGES.items() if name not in OURS}
    assert len(pinned) == 6


def test_compose_uses_what_was_pinned(tmp_path):
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("docker compose is not installed (Debian: docker-compose)")
    (tmp_path / "env").write_text(pin(tmp_path).stdout)
    command = [docker, "compose", "--env-file", tmp_path / "env", "config"]
    clean = {name: value for name, value in os.environ.items() if not name.endswith("_IMAGE")}
    said = subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, check=True).stdout
    services = yaml.safe_load(said)["services"]
    used = {each["image"] for each in services.values()}
    used |= {each["build"]["args"]["PYTHON_IMAGE"] for each in services.values() if "build" in each}
    others = {f"{image}@{digest_of(image)}" for name, image in IMAGES.items() if name not in OURS}
    assert used == others | {IMAGES[name] for name in OURS}


def test_the_object_store_leaves_the_recorder_room_on_a_disk_that_they_share():
    """It stops taking objects first, by default; how much stays free can be said."""
    (name, free_percent) = re.findall(r"-volume\.minFreeSpace=\$\{(\w+):-(\d+)\}", COMPOSE)[0]
    stops_at = {each.name: each.default for each in fields(RecorderSettings)}["disk_stop_percent"]
    assert 100 - int(free_percent) < stops_at
    assert name in (ROOT / "docs/how-to/deploy-compose.md").read_text()
    assert name in (ROOT / "tests/e2e/compose/run.sh").read_text(), "the stack's test depends on how full this disk is"


def test_what_the_environment_names_is_pinned_instead_and_a_digest_stays(tmp_path):
    mine, fixed = "registry.test/redis:1", f"python:3@sha256:{'7' * 64}"
    lines = pin(tmp_path, REDIS_IMAGE=mine, PYTHON_IMAGE=fixed).stdout.splitlines()
    assert f"REDIS_IMAGE={mine}@{digest_of(mine)}" in lines
    assert f"PYTHON_IMAGE={fixed}" in lines


@pytest.mark.parametrize(("how", "words"), [("GONE", "not found"), ("SILENT", "names no digest")])
def test_an_image_without_a_digest_fails_and_says_which(tmp_path, how, words):
    image = IMAGES["PROMETHEUS_IMAGE"]
    done = pin(tmp_path, **{how: image})
    assert done.returncode != 0
    assert image in done.stderr
    assert words in done.stderr


def test_the_same_variable_means_the_same_image_everywhere():
    found = set(re.findall(r"\$\{([A-Z_]+_IMAGE):-([^}]+)\}", COMPOSE))
    assert len(found) == len(IMAGES)
    assert re.findall(r"^\s+image: (?!\$\{)", COMPOSE, re.MULTILINE) == []
    assert not [image for image in IMAGES.values() if image.endswith(":latest") or ":" not in image]
    dockerfile = (ROOT / "ops/deploy/image/Dockerfile").read_text()
    assert re.findall(r"^ARG PYTHON_IMAGE=(.+)$", dockerfile, re.MULTILINE) == [IMAGES["PYTHON_IMAGE"]]


def test_our_images_have_the_version_of_the_project():
    assert {IMAGES[name] for name in OURS} == {f"stockade:{VERSION}", f"stockade-ray:{VERSION}"}
    for file in (ROOT / "ops/deploy/kubernetes/overlays").glob("*/kustomization.yaml"):
        for image in yaml.safe_load(file.read_text())["images"]:
            assert image["newName"].rpartition("/")[2] in {"stockade", "stockade-ray"}
            assert image["newTag"] == VERSION


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_documents_name_the_same_versions(path):
    versions = {image.partition(":")[0]: image.partition(":")[2] for image in IMAGES.values()}
    named = "|".join(map(re.escape, versions))
    for repository, tag in re.findall(rf"(?<![\w-])({named}):(v?\d[\w.-]*)", path.read_text(encoding="utf-8")):
        assert tag == versions[repository], f"{repository}:{tag}"
