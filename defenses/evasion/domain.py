"""Domain check: is each row finite and inside the range that the model declares?

Not a statistical screen but a precondition of all others: outside its declared range a model has been measured on
nothing. The answer is a mask, so one bad row never takes its neighbours with it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.errors import EvidenceInvalid


def check_domain(array: NDArray[Any], low: float | None, high: float | None) -> NDArray[np.bool_]:
    """Return bool (rows,): True where every element of the row is finite and in [low, high], ends included.

    Takes bool, integer and floating-point arrays with rows first; None leaves an end open. Bounds are rounded to the
    dtype of a floating-point array: a float32 client that sends 0.1 for a declared 0.1 is inside. EvidenceInvalid for
    other dtypes and for arrays without a row axis.
    """
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        raise EvidenceInvalid("domain", f"{array.dtype}{array.shape}: numeric rows wanted")
    rows = array.shape[0]
    if array.size == 0:  # a row without elements has nothing outside
        return np.ones(rows, np.bool_)
    flat = array.reshape(rows, -1)
    with np.errstate(invalid="ignore", over="ignore"):  # signalling NaNs; bounds beyond a narrow dtype become infinite
        smallest, largest = flat.min(axis=1), flat.max(axis=1)  # both NaN where the row has one, so both compare False
        inside = np.isfinite(smallest) & np.isfinite(largest)
        if low is not None:
            inside &= smallest >= float(low)  # a Python float takes the array's dtype, a NumPy one would not
        if high is not None:
            inside &= largest <= float(high)
    return np.asarray(inside, np.bool_)
