"""What the defenses raise. Every error carries data; the gateway alone turns it into words for a client.

DefenseError
├── BudgetStateInvalid    what was kept of an account's query budget is no such state
├── CalibrationInvalid    a calibration artefact is malformed or was built from unusable data
├── CalibrationTooSmall   too few calibration rows for the false-positive rate that was asked for
├── EvidenceInvalid       what a screen or a check was given has the wrong name, shape or dtype
├── ProofInvalid          a proof of work is not one, not ours, or was taken before
├── RuleInvalid           a rule of the policy or of hardening is out of its limits
├── ScreenFailed          a screen raised, or broke its contract (shape, dtype, NaN)
├── ScreenMissing         a rule names a screen whose p-values were not given
└── SnapshotInvalid       what a watch is to restore is no snapshot of one with this key and calibration
"""


class DefenseError(Exception):
    """Root of everything this package raises on purpose."""


class BudgetStateInvalid(DefenseError):
    def __init__(self, nbytes: int) -> None:
        super().__init__(f"{nbytes} bytes")
        self.nbytes = nbytes


class CalibrationInvalid(DefenseError):
    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class CalibrationTooSmall(DefenseError):
    """With `rows` rows no threshold keeps the rate below `fpr_max` at this confidence; `rows_min` would."""

    def __init__(self, rows: int, rows_min: int, fpr_max: float, confidence: float) -> None:
        super().__init__(f"{rows} calibration rows; FPR <= {fpr_max} at confidence {confidence} needs {rows_min}")
        self.rows = rows
        self.rows_min = rows_min
        self.fpr_max = fpr_max
        self.confidence = confidence


class EvidenceInvalid(DefenseError):
    """`problem` names shapes and dtypes, never a value that a client sent."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem}")
        self.name = name
        self.problem = problem


class ProofInvalid(DefenseError):
    """`problem` is one of `defenses.extraction.proof_of_work.ProofProblem`, never a word of what was sent."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class RuleInvalid(DefenseError):
    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class ScreenFailed(DefenseError):
    """The caller fails closed: no verdict is not the same as a pass."""

    def __init__(self, screen: str, problem: str) -> None:
        super().__init__(f"{screen}: {problem}")
        self.screen = screen
        self.problem = problem


class ScreenMissing(DefenseError):
    def __init__(self, screen: str) -> None:
        super().__init__(screen)
        self.screen = screen


class SnapshotInvalid(DefenseError):
    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
