"""The results of a half: all processes' answers gathered, the table, and a file that says what it rests on.

Belongs here: reading answers, writing `results-<half>.json` and the table as Markdown. Does not: scoring, running.
"""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from gapbench.cases import SEED
from gapbench.score import Figure, figures

CONSOLE = Console(soft_wrap=True)


def summary(world: str, half: str, folder: Path, wanted: Collection[str]) -> dict[str, Any]:
    """The figures of the answers to the wanted cases, with what they rest on."""
    lines = [line for path in sorted(folder.glob(f"answers-{half}-*.jsonl")) for line in path.read_text().splitlines()]
    rows = {row["case"]: row for row in map(json.loads, lines) if row["case"] in wanted}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "world": world, "half": half, "seed": SEED, "commit": commit.stdout.strip(), "asked": len(wanted),
        "answered": len(rows), "impossible": sum(row["answer"] is None for row in rows.values()),
        "minutes": round(sum(row["seconds"] for row in rows.values()) / 60, 1),
        "figures": [asdict(figure) for figure in figures(rows.values())],
    }  # fmt: skip


def show(results: dict[str, Any], folder: Path) -> None:
    """Print the table and keep the results beside the answers."""
    (folder / f"results-{results['half']}.json").write_text(json.dumps(results, indent=1))
    CONSOLE.print(markdown(results), markup=False)


def markdown(results: dict[str, Any]) -> str:
    """The table with a line on what it rests on."""
    head = (
        f"{results['world']}, {results['half']} half: {results['answered']} of {results['asked']} cases answered in "
        f"{results['minutes']} core minutes, {results['impossible']} of them impossible (the plant can't do as much "
        f"damage); seed {results['seed']}, commit {results['commit']}"
    )
    lines = ["| figure | value | 95% interval | cases | gate | met |", "|---|---|---|---|---|---|"]
    for row in results["figures"]:
        figure = Figure(**{**row, "interval": tuple(row["interval"])})
        low, high = figure.interval
        interval = "" if math.isnan(low) else f"{low:.2f}–{high:.2f}"
        met = "" if figure.met is None else "yes" if figure.met else "**no**"
        lines.append(f"| {figure.name} | {figure.value:.2f} | {interval} | {figure.count} | {figure.gate} | {met} |")
    return "\n".join([head, "", *lines])
