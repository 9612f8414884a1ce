"""What the lab's frame raises; the verbs of `stockade lab` turn it into words.

LabError
├── ExperimentUnknown    no experiment of the catalogue has this name
└── TrialsUnreadable     a file of trials holds something else
"""

import difflib

from defenses.errors import DefenseError


class LabError(DefenseError):
    """Root of what the lab's frame raises on purpose. Never on the path of a request."""


class ExperimentUnknown(LabError):
    def __init__(self, name: str, known: list[str]) -> None:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        super().__init__(f"there is no experiment {name!r}{hint}; `stockade lab list` shows all {len(known)}")
        self.name = name


class TrialsUnreadable(LabError):
    def __init__(self, file: str, line: int, problem: str) -> None:
        super().__init__(f"{file}, line {line}: {problem}")
        self.file = file
        self.line = line
        self.problem = problem
