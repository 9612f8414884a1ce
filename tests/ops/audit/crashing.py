"""A process that dies at a step."""

from collections.abc import Callable
from typing import Any


class Crash(BaseException):
    """The process dies here."""


class CrashAfter:
    """Wraps functions: `most` of all their calls are made, and the next one is the last that the process tries."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.calls = 0

    def __call__(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls > self.most:
                raise Crash
            return original(*arguments, **options)

        return call
