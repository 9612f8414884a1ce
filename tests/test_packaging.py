"""The wheel: what is in it, that it works where nothing else of ours is, and that our import names are ours."""

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

from serving.bundles.bundle import load_bundle

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("defenses", "gateway", "ops", "serving", "stockade")


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built by the backend that pip would call, without a network."""
    directory = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", directory, cwd=ROOT)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    directory = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(wheel).extractall(directory)
    return directory


@pytest.fixture(scope="module")
def home(wheel, tmp_path_factory):
    """A virtual environment with the wheel; of this one it sees the dependencies, and not the source tree."""
    directory = tmp_path_factory.mktemp("home") / "venv"
    venv.create(directory, symlinks=True)
    python = directory / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=ROOT,
    )
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site,) = directory.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text("".join(f"{path}\n" for path in paths))  # their own .pth files stay unread
    return directory


def test_the_wheel_holds_our_import_names_and_nothing_else(wheel):
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops - set(NAMES) == {"stockade-0.1.0.dist-info"}
    assert tops >= set(NAMES)


@pytest.mark.parametrize("package", NAMES)
def test_the_wheel_holds_every_module_of_a_package(unpacked, package):
    source = ROOT / "proto" / package if package == "stockade" else ROOT / package
    modules = {path.relative_to(source) for path in source.rglob("*.py")}
    assert {path.relative_to(unpacked / package) for path in (unpacked / package).rglob("*.py")} == modules


@pytest.mark.parametrize("package", NAMES)
def test_type_checkers_are_told_that_the_packages_are_typed(unpacked, package):
    assert (unpacked / package / "py.typed").is_file()


def test_the_wheel_holds_the_script_of_shared_limits(unpacked):
    name = "gateway/admission/shared.lua"
    assert (unpacked / name).read_bytes() == (ROOT / name).read_bytes()


@pytest.mark.parametrize("name", ["stockade.yaml", "policy.yaml"])
def test_the_wheel_holds_the_templates_of_both_files(unpacked, name):
    assert (unpacked / "gateway/tools/init/templates" / name).read_bytes() == (
        ROOT / "gateway/tools/init/templates" / name
    ).read_bytes()


def test_the_wheel_holds_the_models_and_they_are_what_was_signed(unpacked):
    bundles = unpacked / "gateway" / "bundles"
    carried = {path.relative_to(bundles) for path in bundles.rglob("*") if path.is_file()}
    there = {path.relative_to(ROOT / "bundles") for path in (ROOT / "bundles").rglob("*") if path.is_file()}
    assert carried == there - {Path(".gitattributes")}
    assert load_bundle(bundles / "kiosk" / "1", [bundles / "stockade-release.pub"]).name == "kiosk"


def test_the_wheel_is_stockade_with_its_licence_and_one_console_script(unpacked):
    facts = unpacked / "stockade-0.1.0.dist-info"
    assert (facts / "entry_points.txt").read_text().split("\n")[:2] == [
        "[console_scripts]",
        "stockade = gateway.__main__:main",
    ]
    assert (facts / "licenses" / "LICENSE").read_text().lstrip().startswith("Apache License")


def test_the_installed_command_makes_a_directory_that_a_gateway_would_start_from(home, tmp_path):
    """With the models, which come from the wheel: there is no source tree to find them in."""
    stockade = home / "bin" / "stockade"
    assert run(stockade, "--version", cwd=tmp_path) == "stockade 0.1.0\n"
    report = json.loads(run(stockade, "init", "gateway", "--json", cwd=tmp_path))
    assert report["bundles"] == ["kiosk/1"]
    assert json.loads(run(stockade, "check", "gateway/stockade.yaml", "--json", cwd=tmp_path))["ok"]


def test_the_installed_command_runs_what_was_installed(home, tmp_path):
    program = "import importlib, sys; print(*(importlib.import_module(name).__file__ for name in sys.argv[1:]))"
    files = run(home / "bin" / "python", "-c", program, *NAMES, cwd=tmp_path).split()
    assert [Path(file).is_relative_to(home) for file in files] == [True] * len(NAMES)


def claims(found: Iterable[Distribution]) -> dict[str, set[str]]:
    """Which distributions other than ours install something under one of our import names."""
    claimed: dict[str, set[str]] = {}
    for distribution in found:
        name = distribution.metadata["Name"]
        if name == "stockade":
            continue
        tops = {Path(file).parts[0] for file in distribution.files or ()}
        tops |= set((distribution.read_text("top_level.txt") or "").split())
        for top in tops:
            if top.removesuffix(".py") in NAMES:
                claimed.setdefault(top.removesuffix(".py"), set()).add(name)
    return claimed


def test_no_other_distribution_owns_an_import_name_of_ours():
    """`import ops` is also Canonical's charm library: Stockade needs an environment of its own (see CONTRIBUTING)."""
    assert claims(distributions()) == {}


def test_our_import_names_lead_here():
    origins = {name: Path(find_spec(name).origin).resolve() for name in NAMES}
    assert {name for name, origin in origins.items() if not origin.is_relative_to(ROOT)} == set()


@pytest.mark.parametrize(
    ("file", "text"),
    [("RECORD", "ops/__init__.py,,\nops/charm.py,,\n"), ("RECORD", "ops.py,,\n"), ("top_level.txt", "ops\n")],
)
def test_another_owner_of_a_name_is_seen(tmp_path, file, text):
    facts = tmp_path / "charm-2.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: charm\nVersion: 2.0\n")
    (facts / file).write_text(text)
    assert claims(distributions(path=[str(tmp_path)])) == {"ops": {"charm"}}
