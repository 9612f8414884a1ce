"""A small clickstream in the form of ecom.csv.gz: sessions that go forward, now and then back, and sometimes buy."""

from __future__ import annotations

import gzip
from datetime import datetime, timedelta
from functools import cache

import numpy as np

from serving.train.clickstream.ecom import EVENTS

HEADER = "user_id,session_id,event,timestamp,platform"


def text(sessions: int = 900, users: int = 120, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    lines, start = [HEADER], datetime(2024, 1, 1)  # noqa: DTZ001 - as the file has them
    for number in range(sessions):
        user = int(rng.integers(users))
        place, at = int(rng.integers(3)), start + timedelta(minutes=30 * number)
        for _ in range(int(rng.integers(4, 14))):
            line = f"user_{user:04d},sess_{number:06d},{EVENTS[place]},{at:%Y-%m-%d %H:%M:%S},mobile"
            lines.append(line)
            place = (place + int(rng.choice([1, 1, 1, 2, -1]))) % len(EVENTS)
            at += timedelta(seconds=20)
    return "\n".join(lines) + "\n"


@cache
def compressed(sessions: int = 900) -> bytes:
    return gzip.compress(text(sessions).encode(), 1, mtime=0)
