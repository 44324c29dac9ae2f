"""Seven nights of a small world: pictures come and go, and on night five the target's camera goes dark.

A script, since it takes minutes: python tests/pipelines/seven_nights.py FOLDER, from the root. It prints what each
night did and what a receiver on this machine was sent; the pages lie in FOLDER/store/reports.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from message_receiver import receiver
from PIL import Image, ImageEnhance

from pipelines.definitions import build_defs
from pipelines.home import open_instance
from pipelines.nights import check
from pipelines.rerun import Outcome, Rerun
from resources.clock import Clock
from resources.config import load_config

FIRST = datetime(2026, 7, 6, 2, 0, tzinfo=UTC)
START, LATER = 48, 60
"""Pictures of the target at first, and in all."""
DARK = 0.4
PLANTED = 5


@dataclass
class Nights:
    """A world whose target `street` is moved night by night; what each night did and sent."""

    world: object
    outcomes: list[Outcome] = field(default_factory=list)
    messages: list[list[dict]] = field(default_factory=list)

    def run(self, others: list[str]) -> None:
        """All seven nights. `others`: targets of the world that stay as they are."""
        root = self.world.root
        pool = sorted(path.stem for path in (root / "pool" / "images").iterdir())
        with receiver() as (address, received, _):
            alerts = {"change": {"nights": 4, "loss_gap": 0.02}, "new_cause": True, "quality": True,
                      "no_check_hours": 30, "notify": [address], "link": "https://gap.example/reports"}  # fmt: skip
            folder = {"name": "street", "reader": "folder", "root": "street", "group": "^(.*)_[0-9]+$"}
            kept = [{**folder, "name": name, "root": name} for name in others]
            self.world.write_config(targets=[folder, *kept], alerts=alerts)
            steps = [
                lambda: self.add(pool[:START]), lambda: self.add(pool[START:54]), lambda: None,
                lambda: self.remove(pool[:4]), lambda: self.plant(pool[54:56]), lambda: None,
                lambda: (self.add(pool[56:LATER], dark=True), self.remove(pool[4:6])),
            ]  # fmt: skip
            for number, step in enumerate(steps):
                step()
                before = len(received)
                self.outcomes.append(self.night(number))
                self.messages.append(received[before:])

    def night(self, number: int) -> Outcome:
        """One check at its hour."""
        config, clock = load_config(self.world.config_path), Clock(FIRST + timedelta(days=number))
        self.world.defs()  # lets the world's own modules be found
        loop = Rerun(build_defs(config, {"clock": clock}), open_instance(self.world.store))
        return check(loop, config, clock=clock)

    def add(self, names: list[str], *, dark: bool = False) -> None:
        for kind in ("images", "masks"):
            folder = self.world.root / "street" / kind
            folder.mkdir(parents=True, exist_ok=True)
            for name in names:
                [source] = (self.world.root / "pool" / kind).glob(f"{name}.*")
                shutil.copy(source, folder / source.name)
                if dark and kind == "images":
                    darken(folder / source.name)

    def remove(self, names: list[str]) -> None:
        for name in names:
            for kind in ("images", "masks"):
                [path] = (self.world.root / "street" / kind).glob(f"{name}.*")
                path.unlink()

    def plant(self, names: list[str]) -> None:
        self.add(names)
        for path in (self.world.root / "street" / "images").iterdir():
            darken(path)


def darken(path: Path) -> None:
    with Image.open(path) as picture:
        dark = ImageEnhance.Brightness(picture).enhance(DARK)
    dark.save(path)


def main(folder: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    import world

    made = world.build_world(folder)
    world.render(folder / "pool", "same_city", LATER)
    nights = Nights(made)
    nights.run(["dark", "bare"])
    for number, (outcome, messages) in enumerate(zip(nights.outcomes, nights.messages, strict=True), 1):
        print(f"night {number}: {outcome.summary()}")  # noqa: T201
        for message in messages:
            print(f"  {message['title']}: {message['message']}")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
