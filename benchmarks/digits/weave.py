"""Puts the accuracies of docs/digits.md into docs/methods.md, a line for each row of a method.

    ingot methods --markdown | python3 benchmarks/digits/weave.py > docs/methods.md

scripts/methods-page does that, and scripts/digits --update writes the lines anew. Lines that are there already are replaced.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "digits.md"
MARK = "* On [digits](digits.md#accuracies)"


def figures(page: str) -> dict[str, list[str]]:
    """The lines of each method, from the table of accuracies."""
    lines: dict[str, list[str]] = {}
    table = page.split("\n## Accuracies\n")[1].split("\n## ")[0]
    for row in table.splitlines():
        if not row.startswith("| `"):
            continue
        label, given, all_ten, by_task, factor, tuned, tuned_by_task = (cell.strip() for cell in row.split("|")[1:-1])
        name, _, rest = label.partition(",")
        words = ", ".join(part for part in (rest.strip(), given) if part)
        text = f"{MARK}{f' ({words})' if words else ''}: {all_ten} % told right among all ten, {by_task} % by task"
        if factor:
            text += f"; with λ {factor} {tuned} and {tuned_by_task}"
        lines.setdefault(name.strip("`"), []).append(text)
    return lines


def weave(methods: str, found: Mapping[str, Sequence[str]]) -> str:
    """`methods` with the lines of `found` at the end of each method's facts."""
    result: list[str] = []
    waiting: Sequence[str] = ()
    in_facts = False
    for line in methods.splitlines():
        if line.startswith(MARK):
            continue
        if title := re.match(r"## .* `(\w+)`$", line):
            waiting = found.get(title[1], ())
        if in_facts and not line.startswith("* "):
            result += waiting
            waiting = ()
        in_facts = bool(waiting) and line.startswith("* ")
        result.append(line)
    return "\n".join(result) + "\n"


def main() -> None:
    sys.stdout.write(weave(sys.stdin.read(), figures(PAGE.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
