"""Files that somebody has left where an operator happens to stand when he starts a gateway, such as /tmp."""

from __future__ import annotations

from tests.e2e.running import serving
from tests.e2e.site import copy_site

PLANTED = "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\nraise ImportError('planted')\n"


def test_a_gateways_processes_run_no_module_from_the_folder_it_was_started_in(made_site, tmp_path, monkeypatch):
    """A worker holds the TLS key and the pepper. This module is one that the command itself does not load."""
    (tmp_path / "onnxruntime.py").write_text(PLANTED)
    monkeypatch.chdir(tmp_path)
    with serving(copy_site(made_site, tmp_path / "site")):
        assert not (tmp_path / "onnxruntime.ran").exists()
