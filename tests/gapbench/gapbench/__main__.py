"""`python -m gapbench`: run cases that have no answer yet, then print the table. Can be stopped and resumed."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from gapbench.cases import Case, cases, lay_out
from gapbench.damage import curves
from gapbench.method import Method
from gapbench.score import table
from gapbench.world import CAMVID, World, camvid

CONSOLE = Console(soft_wrap=True)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="gapbench", description=__doc__)
    parser.add_argument("--half", choices=("tune", "report"), default="tune", help="which half of the cases")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--every", type=int, default=1, help="each n-th of these cases")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further case after this time")
    parser.add_argument("--store", type=Path, default=Path("gap-data/gapbench"))
    asked = parser.parse_args()
    if not CAMVID.exists():
        parser.exit(2, f"{CAMVID}: not there; the bench needs CamVid and weights trained on its day drives\n")
    world = camvid()
    folder = asked.store / world.name
    wanted = [case for case in cases() if case.half == asked.half and asked.only in case.name][:: asked.every]
    rows = run(world, wanted, folder, asked.minutes)
    for figure, rate in table(rows).items():
        CONSOLE.print(f"{figure:<48} {rate}", markup=False)


def run(world: World, wanted: list[Case], folder: Path, minutes: float) -> list[dict[str, object]]:
    """Answers of the cases, each kept as a line of `answers-<half>.jsonl`; those that are there are not asked again."""
    method = Method(world, folder / "work")
    plants = dict.fromkeys(plant for case in wanted for plant in case.plants)
    damage = curves(world, list(plants), folder / "damage.json")
    kept = folder / f"answers-{wanted[0].half}.jsonl" if wanted else folder / "answers.jsonl"
    known = {row["case"]: row for row in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}
    begun = time.monotonic()
    for case in wanted:
        if case.name in known or (time.monotonic() - begun) / 60 > minutes:
            continue
        started = time.monotonic()
        sides = lay_out(case, world, damage)
        label = case.name.replace("/", "_")
        answer = None if sides is None else asdict(method.ask(*sides, label))
        row = {"case": case.name, "causes": list(case.causes), "damage": case.damage, "answer": answer,
               "seconds": round(time.monotonic() - started, 1)}  # fmt: skip
        known[case.name] = row
        with kept.open("a") as file:
            file.write(json.dumps(row) + "\n")
        shutil.rmtree(folder / "work" / label, ignore_errors=True)
        CONSOLE.print(f"{row['seconds']:7.1f} s  {case.name}: {_said(answer)}", markup=False)
    return [known[case.name] for case in wanted if case.name in known]


def _said(answer: dict[str, object] | None) -> str:
    if answer is None:
        return "the plant can't do as much damage"
    gap = f"gap {answer['gap']:+.3f}{'' if answer['detected'] else ' (not detected)'}"
    return f"{gap}; explained by {answer['explained']}; confirmed {answer['causes']}"


if __name__ == "__main__":
    main()
