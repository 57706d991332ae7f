"""Fetching models of the Hugging Face hub, when the caller asks for it and huggingface_hub is installed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from ._errors import NotFoundError

_HUB_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*(?:/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
# Weights in one format, and what belongs to a model beside them; not the copies for other programs that many repositories hold.
_PATTERNS = ["*.safetensors", "*.json", "*.model", "*.txt", "*.py", "*.jinja", "*.md", "LICENSE*"]
_LEGACY = ["*.bin", "*.pt", "*.pth"]

Result = TypeVar("Result")


def hub_models(references: Iterable[str]) -> list[tuple[str, str | None]]:
    """(name, revision) of those that have the form of a hub name and are no local path; all sides of a `+`, without the tasks of packs."""
    found: list[tuple[str, str | None]] = []
    for reference in references:
        base, *others = reference.split("+")
        for part in [base, *(other.rpartition("#")[0] or other for other in others)]:
            path, _, revision = part.partition("@")
            entry = (path, revision or None)
            if _HUB_NAME.fullmatch(path) and not os.path.exists(path) and entry not in found:
                found.append(entry)
    return found


def with_download(action: Callable[[], Result], models: Callable[[], Iterable[str]]) -> Result:
    """Runs `action`; where it misses a model of the hub, fetches that, and tries again."""
    fetched: set[tuple[str, str | None]] = set()
    while True:
        try:
            return action()
        except NotFoundError as error:
            about = f"{error.subject} {error.message}"
            wanted = [entry for entry in hub_models(models()) if entry[0] in about and entry not in fetched]
            if not wanted:
                raise
            try:
                import huggingface_hub  # type: ignore[import-not-found, import-untyped, unused-ignore]
            except ImportError:
                more = "download=True needs huggingface_hub: pip install huggingface_hub"
                error.hint = f"{error.hint}; {more}" if error.hint else more
                raise error from None
            for name, revision in wanted:
                _fetch(huggingface_hub, name, revision)
                fetched.add((name, revision))


def _fetch(hub: object, name: str, revision: str | None) -> None:
    """snapshot_download into the cache that the library reads; its own errors come out as they are."""
    download = hub.snapshot_download  # type: ignore[attr-defined]
    folder = download(name, revision=revision, allow_patterns=_PATTERNS)
    if not any(file.endswith(".safetensors") for file in os.listdir(folder)):
        download(name, revision=revision, allow_patterns=_PATTERNS + _LEGACY)
