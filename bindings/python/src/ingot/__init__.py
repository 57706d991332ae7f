"""Ingot merges neural-network checkpoints: many in, one out.

    >>> import ingot
    >>> ingot.merge("recipe.yml", "merged")  # doctest: +SKIP
    >>> ingot.merge_tensors("slerp", [b], base=a, t=0.5)  # doctest: +SKIP

`ingot.lora` has LoRA adapters, `ingot.rolling` models that come one at a time, `ingot.delta` packed fine-tunes, `ingot.collect`
what some methods read besides weights. The work is done by libingot, which this package loads with ctypes; it needs no other
package. Python's lock is released meanwhile. Notices go to logging.getLogger("ingot"), nothing is printed.
"""

from . import collect, delta, lora, rolling
from ._api import diff, inspect, merge, merge_state_dicts, merge_tensors, plan, verify
from ._comparison import Comparison, ComparisonSummary, FileDifference, LoneTensor, TaskVectorDifference, TensorDifference, ValueDifference
from ._engine import Engine
from ._errors import (
    BusyError,
    CallbackError,
    CancelledError,
    DTypeError,
    ExistsError,
    FormatError,
    IngotError,
    InternalError,
    InvalidArgumentError,
    MemoryBudgetError,
    NonfiniteError,
    NoSpaceError,
    NotFoundError,
    OutputError,
    Position,
    ReadError,
    RecipeError,
    ShapeError,
    StaleError,
    Status,
    UnsupportedError,
)
from ._library import build_info, library_path
from ._plan import Plan
from ._progress import Progress
from ._regmean import regmean_plus_plus
from ._reports import Checkpoint, Finding, Method, Notice, Parameter, Report, SideInput, TensorInfo, Verification, methods
from ._soups import Soup, SoupTrial, greedy_soup
from ._version import __version__

__all__ = [
    "BusyError",
    "CallbackError",
    "CancelledError",
    "Checkpoint",
    "Comparison",
    "ComparisonSummary",
    "DTypeError",
    "Engine",
    "ExistsError",
    "FileDifference",
    "Finding",
    "FormatError",
    "IngotError",
    "InternalError",
    "InvalidArgumentError",
    "LoneTensor",
    "MemoryBudgetError",
    "Method",
    "NoSpaceError",
    "NonfiniteError",
    "NotFoundError",
    "Notice",
    "OutputError",
    "Parameter",
    "Plan",
    "Position",
    "Progress",
    "ReadError",
    "RecipeError",
    "Report",
    "ShapeError",
    "SideInput",
    "Soup",
    "SoupTrial",
    "StaleError",
    "Status",
    "TaskVectorDifference",
    "TensorDifference",
    "TensorInfo",
    "UnsupportedError",
    "ValueDifference",
    "Verification",
    "__version__",
    "build_info",
    "collect",
    "delta",
    "diff",
    "greedy_soup",
    "inspect",
    "library_path",
    "lora",
    "merge",
    "merge_state_dicts",
    "merge_tensors",
    "methods",
    "plan",
    "regmean_plus_plus",
    "rolling",
    "verify",
]
