"""Ingot merges neural-network checkpoints: many in, one out.

    >>> import ingot
    >>> ingot.merge("recipe.yml", "merged")  # doctest: +SKIP
    >>> ingot.merge_tensors("slerp", [b], base=a, t=0.5)  # doctest: +SKIP

The work is done by libingot, which this package loads with ctypes; it needs no other package. Python's lock is released
meanwhile. Notices go to logging.getLogger("ingot"), nothing is printed.
"""

from . import collect
from ._api import inspect, merge, merge_state_dicts, merge_tensors, plan, verify
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
from ._reports import Checkpoint, Finding, Method, Notice, Parameter, Report, SideInput, TensorInfo, Verification, methods
from ._soups import Soup, SoupTrial, greedy_soup
from ._version import __version__

__all__ = [
    "BusyError",
    "CallbackError",
    "CancelledError",
    "Checkpoint",
    "DTypeError",
    "Engine",
    "ExistsError",
    "Finding",
    "FormatError",
    "IngotError",
    "InternalError",
    "InvalidArgumentError",
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
    "TensorInfo",
    "UnsupportedError",
    "Verification",
    "__version__",
    "build_info",
    "collect",
    "greedy_soup",
    "inspect",
    "library_path",
    "merge",
    "merge_state_dicts",
    "merge_tensors",
    "methods",
    "plan",
    "verify",
]
