"""Turns the runs into medians, ratios and tables."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from statistics import median

from measure import Run

Results = Mapping[str, Mapping[str, Sequence[Run]]]  # method -> program -> runs


def machine() -> dict[str, str]:
    """What the figures depend on."""
    model = ""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo", encoding="utf-8") as file:
        memory = int(file.readline().split()[1]) / 2**20
    return {
        "processor": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
    }


def summary(runs: Sequence[Run]) -> dict[str, float]:
    """Median wall and processor time, best wall time, largest memory, and the most that others took of the machine."""
    return {
        "runs": len(runs),
        "wall_median_s": median(run.wall for run in runs),
        "wall_best_s": min(run.wall for run in runs),
        "cpu_median_s": median(run.cpu for run in runs),
        "peak_rss_bytes": max(run.peak_rss for run in runs),
        "peak_anonymous_bytes": max(run.peak_anonymous for run in runs),
        "peak_private_bytes": max(run.peak_private for run in runs),
        "other_cpu_median_s": median(run.other_cpu for run in runs),
    }


def document(results: Results, settings: Mapping[str, object]) -> dict[str, object]:
    """Everything measured, for a JSON file."""
    return {
        "settings": dict(settings),
        "machine": machine(),
        "methods": {
            method: {
                program: {"summary": summary(runs), "runs": [run.as_dict() for run in runs]} for program, runs in programs.items() if runs
            }
            for method, programs in results.items()
        },
    }


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.0f}"


def markdown(results: Results) -> str:
    """One row per method and program; the ratios compare median wall times."""
    lines = [
        "| method | program | runs | wall s, median (best) | CPU s | peak RSS MB | anonymous MB | anonymous + shared MB "
        "| others' CPU s | mergekit ÷ this | this ÷ plain |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method, programs in results.items():
        medians = {program: summary(runs) for program, runs in programs.items() if runs}
        peer = medians.get("mergekit")
        for program, figures in medians.items():
            plain = medians.get("plain, synced" if "sync all" in program else "plain")
            faster = (
                ""
                if peer is None or program == "mergekit" or program.startswith("plain")
                else f"{peer['wall_median_s'] / figures['wall_median_s']:.1f}"
            )
            of_plain = "" if plain is None or program.startswith("plain") else f"{figures['wall_median_s'] / plain['wall_median_s']:.2f}"
            lines.append(
                f"| {method} | {program} | {figures['runs']:.0f} | {figures['wall_median_s']:.2f} ({figures['wall_best_s']:.2f}) "
                f"| {figures['cpu_median_s']:.2f} | {_megabytes(figures['peak_rss_bytes'])} "
                f"| {_megabytes(figures['peak_anonymous_bytes'])} | {_megabytes(figures['peak_private_bytes'])} "
                f"| {figures['other_cpu_median_s']:.1f} | {faster} | {of_plain} |"
            )
    return "\n".join(lines) + "\n"
