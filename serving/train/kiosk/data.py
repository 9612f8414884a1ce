"""Fashion-MNIST: found on disk, parsed strictly, split by seed.

Rules:
- An explicit directory is the only one looked at; without one, the place where Debian's package puts the files.
- The files are idx (http://yann.lecun.com/exdb/mnist/) in gzip. Decompression is bounded by the size the header may
  ask for, so a bomb costs nothing; header, count, shape and length must agree to the byte. Never a pickle.
- The SHA-256 of each file as read stands in the result, and from there in the bundle's lineage.
- The 60,000 training images are split into train, fit and calibrate; the 10,000 test images only ever measure.

Fashion-MNIST (c) 2017 Zalando SE, MIT licence, https://arxiv.org/abs/1708.07747.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.train.errors import DatasetMalformed, DatasetMissing
from serving.train.pack import write_rows

DEBIAN_DIRECTORY = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_PACKAGE = "dataset-fashion-mnist"
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SIDE = 28
TRAIN_ROWS = 60_000
TEST_ROWS = 10_000
FIT_ROWS = 3_000
CALIBRATE_ROWS = 10_000
COMPRESSED_BYTES_MAX = 64 * 1024 * 1024
SAMPLES_PER_CLASS = 100
SAMPLES_LICENCE = "MIT, (c) 2017 Zalando SE; test images of https://github.com/zalandoresearch/fashion-mnist"

_FILES = {
    "train-images-idx3-ubyte.gz": (TRAIN_ROWS, SIDE, SIDE),
    "train-labels-idx1-ubyte.gz": (TRAIN_ROWS,),
    "t10k-images-idx3-ubyte.gz": (TEST_ROWS, SIDE, SIDE),
    "t10k-labels-idx1-ubyte.gz": (TEST_ROWS,),
}
_UNSIGNED_BYTE = 0x08
_GZIP_WINDOW = 31


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images uint8 (n, 28, 28) and labels uint8 (n,) in 0..9."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def take(self, rows: NDArray[np.intp]) -> Labelled:
        return Labelled(self.images[rows], self.labels[rows])

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class FashionMnist:
    """The complete data set and the SHA-256 of each file it came from."""

    pool: Labelled
    test: Labelled
    digests: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Splits:
    """Disjoint parts of the pool: weights, density fits, and conformal calibration."""

    train: Labelled
    fit: Labelled
    calibrate: Labelled


def parse_idx(compressed: bytes, shape: tuple[int, ...], file: str) -> NDArray[np.uint8]:
    """Return the array of a gzipped idx file of unsigned bytes that must have this shape, or raise DatasetMalformed."""
    header_bytes = 4 + 4 * len(shape)
    expected_bytes = header_bytes + int(np.prod(shape))
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    try:
        raw = inflater.decompress(compressed, expected_bytes + 1)
    except zlib.error as error:
        raise DatasetMalformed(file, "not gzip, or damaged") from error
    if len(raw) != expected_bytes or not inflater.eof or inflater.unused_data:
        raise DatasetMalformed(file, f"does not hold exactly {expected_bytes} bytes")
    zero, kind, dimensions = struct.unpack_from(">HBB", raw)
    if zero != 0 or kind != _UNSIGNED_BYTE or dimensions != len(shape):
        raise DatasetMalformed(file, "is not idx of unsigned bytes with the expected dimensions")
    if struct.unpack_from(f">{dimensions}I", raw, 4) != shape:
        raise DatasetMalformed(file, f"is not of shape {shape}")
    return np.frombuffer(raw, dtype=np.uint8, offset=header_bytes).reshape(shape)


def load_fashion_mnist(directory: Path | None = None) -> FashionMnist:
    """Load the whole data set from `directory`, or from where Debian's package puts it.

    Raises:
        DatasetMissing: a file is not there.
        DatasetMalformed: a file is not what it should be.
    """
    place = DEBIAN_DIRECTORY if directory is None else directory
    arrays: list[NDArray[np.uint8]] = []
    digests: dict[str, str] = {}
    for name, shape in _FILES.items():
        compressed = _read(place, name)
        digests[name] = hashlib.sha256(compressed).hexdigest()
        arrays.append(parse_idx(compressed, shape, name))
    pool, test = Labelled(arrays[0], arrays[1]), Labelled(arrays[2], arrays[3])
    for name, part in (("train-labels-idx1-ubyte.gz", pool), ("t10k-labels-idx1-ubyte.gz", test)):
        if part.labels.max() >= len(CLASS_NAMES):
            raise DatasetMalformed(name, "holds a label above 9")
    return FashionMnist(pool, test, digests)


def _read(directory: Path, name: str) -> bytes:
    try:
        with (directory / name).open("rb") as file:
            compressed = file.read(COMPRESSED_BYTES_MAX + 1)
    except OSError as error:
        raise DatasetMissing("Fashion-MNIST", [directory], DEBIAN_PACKAGE) from error
    if len(compressed) > COMPRESSED_BYTES_MAX:
        raise DatasetMalformed(name, f"is larger than {COMPRESSED_BYTES_MAX} bytes")
    return compressed


def split(pool: Labelled, seed: int) -> Splits:
    """Split the pool at random: calibrate 10,000, fit 3,000, train the rest; the same seed gives the same split."""
    order = np.random.default_rng([seed, 0x5350]).permutation(len(pool))
    calibrate, fit, train = np.split(order, [CALIBRATE_ROWS, CALIBRATE_ROWS + FIT_ROWS])
    return Splits(train=pool.take(train), fit=pool.take(fit), calibrate=pool.take(calibrate))


def write_samples(data: FashionMnist, path: Path) -> None:
    """Write the first 100 test images of each class, in the order of the test set.

    Tensors: images uint8 (1000, 28, 28), labels uint8 (1000,), test_rows int32 (1000,): where each stands in the set.
    """
    labels = data.test.labels
    rows = np.sort(np.concatenate([np.flatnonzero(labels == c)[:SAMPLES_PER_CLASS] for c in range(len(CLASS_NAMES))]))
    tensors = {"images": data.test.images[rows], "labels": labels[rows], "test_rows": rows.astype(np.int32)}
    write_rows(path, tensors, SAMPLES_LICENCE)
