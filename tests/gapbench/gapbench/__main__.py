"""`python -m gapbench`: run cases that have no answer yet, then print the table. Can be stopped and resumed."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from gapbench.baselines import baseline_answers
from gapbench.cases import Case, cases, lay_out
from gapbench.damage import Curve, curves
from gapbench.method import Method
from gapbench.results import show, summary
from gapbench.streets_world import streets
from gapbench.world import CAMVID, World, camvid

CONSOLE = Console(soft_wrap=True)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="gapbench", description=__doc__)
    parser.add_argument("--world", choices=("camvid", "streets"), default="camvid", help="whose pictures")
    parser.add_argument("--half", choices=("tune", "report"), default="tune", help="which half of the cases")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--first", type=int, default=0, help="leave out that many of these cases")
    parser.add_argument("--every", type=int, default=1, help="each n-th of these cases")
    parser.add_argument("--part", default="1/1", help="the i-th of n parts of these cases, as i/n: for n processes")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further case after this time")
    parser.add_argument("--table", action="store_true", help="ask nothing: print the table of the answers so far")
    parser.add_argument("--store", type=Path, default=Path("gap-data/gapbench"))
    asked = parser.parse_args()
    if asked.world == "camvid" and not CAMVID.exists():
        parser.exit(2, f"{CAMVID}: not there; the bench needs CamVid and weights trained on its day drives\n")
    folder = asked.store / asked.world
    world = camvid(folder) if asked.world == "camvid" else streets(folder)
    known = cases(asked.half, world.config.class_names)
    # by seed: a run that is stopped early has asked of every kind
    wanted = sorted((case for case in known if asked.only in case.name), key=lambda case: case.seed)
    wanted = wanted[asked.first :: asked.every]
    part, parts = map(int, asked.part.split("/"))
    if not asked.table:
        run(world, wanted[part - 1 :: parts], folder, asked.minutes, asked.part)
    show(summary(asked.world, asked.half, folder, {case.name for case in wanted}), folder)


def run(world: World, wanted: list[Case], folder: Path, minutes: float, part: str = "1/1") -> None:
    """Answers of the cases, each kept as a line of `answers-<half>-*.jsonl`; what is there is not asked again."""
    if not wanted:
        return
    half = wanted[0].half
    suffix = part.replace("/", "of")
    method = Method(world, folder / f"work-{suffix}")
    plants = dict.fromkeys(plant for case in wanted for plant in (*case.plants, case.distractor) if plant)
    damage = curves(world, list(plants), folder / "damage.json")
    kept = folder / f"answers-{half}-{suffix}.jsonl"
    known = {row["case"]: row for row in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}
    begun = time.monotonic()
    for case in wanted:
        if case.name in known or (time.monotonic() - begun) / 60 > minutes:
            continue
        known[case.name] = row = _asked(case, world, damage, method)
        with kept.open("a") as file:
            file.write(json.dumps(row) + "\n")
        CONSOLE.print(f"{row['seconds']:7.1f} s  {case.name}: {_said(row['answer'])}", markup=False)


def _asked(case: Case, world: World, damage: dict[str, Curve], method: Method) -> dict[str, Any]:
    started = time.monotonic()
    sides = lay_out(case, world, damage)
    label = hashlib.blake2b(case.name.encode(), digest_size=6).hexdigest()
    row: dict[str, Any] = {
        "case": case.name, "causes": list(case.causes), "damage": case.damage,
        "distractor": case.distractor.cause if case.distractor else None, "answer": None,
    }  # fmt: skip
    if sides is not None:
        tables = method.measured(sides.holdout, sides.target, label)
        row |= {
            "truth": sides.shares, "answer": asdict(method.ask(tables, sides.holdout, sides.target, label)),
            "baselines": baseline_answers(method.case_tables(tables, case.seed)),
        }  # fmt: skip
    shutil.rmtree(method.folder / label, ignore_errors=True)
    return {**row, "seconds": round(time.monotonic() - started, 1)}


def _said(answer: dict[str, Any] | None) -> str:
    if answer is None:
        return "the plant can't do as much damage"
    gap = f"gap {answer['gap']:+.3f}{'' if answer['detected'] else ' (not detected)'}"
    before, after, noise = answer["misfit"]
    costs = {name: f"{cost:.0%} {answer['words'][name]}" for name, cost in answer["costs"].items()}
    return f"{gap}; misfit {before:.0f} -> {after:.0f} ({noise:.0f}); {costs}; causes {answer['causes']}"


if __name__ == "__main__":
    main()
