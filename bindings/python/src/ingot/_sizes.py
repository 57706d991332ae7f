"""Numbers of bytes as people write them; the same rules as the command's."""

from __future__ import annotations

import re
from fractions import Fraction

from ._errors import InvalidArgumentError

_UNITS = {"": 1, "byte": 1, "bytes": 1} | {
    f"{letter}{suffix}": base**power for power, letter in enumerate("kmgt", start=1) for suffix, base in (("ib", 1024), ("b", 1000))
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([a-z]*)", re.IGNORECASE | re.ASCII)


def byte_count(value: int | str, name: str) -> int:
    """Bytes from 67108864, "64MiB", "1.5 GiB" or "5GB"; from 1 on. `name` is the argument's, for the error."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        scale = _UNITS.get(match[2].lower()) if match else None
        if match is None or scale is None:
            raise InvalidArgumentError(
                f"{name} is {value!r}, expected a size such as 256MiB",
                hint="examples: 64MiB, 1.5GiB, 5GB, 1048576",
                subject=name,
            )
        value = int(Fraction(match[1]) * scale)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}, expected bytes as an int, or a str such as '256MiB'")
    if not 0 < value < 2**63:
        raise InvalidArgumentError(f"{name} is {value}, expected a positive number of bytes", subject=name)
    return value
