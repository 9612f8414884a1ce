"""Where the signed models and the sample of test images that come with the project are.

In a source tree they stand in `bundles/`; a wheel carries them beside this package.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

IMAGES = Path("samples") / "fashion-mnist-1000.safetensors"


def bundles_directory() -> Path:
    """Return the directory of the models that come with the project."""
    packaged = Path(str(files("gateway"))) / "bundles"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "bundles"


def sample_images() -> Path:
    """Return the file of 1,000 labelled test images of Fashion-MNIST (MIT, Zalando SE)."""
    return bundles_directory() / IMAGES
