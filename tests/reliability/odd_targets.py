"""The whole chain on targets that leave statistics little to stand on, by hand: `odd_targets.py FOLDER`.

Too slow for the tests (minutes). Draws a source and the targets into the folder, runs every stage and prints one line a
target. Exits with 1 where any stage failed or a report is missing.
"""

import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
import yaml  # noqa: E402
from corpus import NAMES, VOID  # noqa: E402
from PIL import Image  # noqa: E402

from pipelines.definitions import build_defs  # noqa: E402
from pipelines.home import open_instance  # noqa: E402
from pipelines.rerun import Rerun  # noqa: E402
from resources.config import load_config  # noqa: E402
from resources.sample_store import SampleStore  # noqa: E402

SIDE, CLASSES = 32, ["road", "sky", "<b>car</b>"]
SIX = [f"d{i}_{i}" for i in range(6)]


def draw(folder: Path, stems: list[str], *, masks: bool = True, only: int | None = None, black: bool = False) -> None:
    """Noisy pictures whose grey tells the class; `only`: masks of one value."""
    rng = np.random.default_rng(len(stems))
    for stem in stems:
        ids = rng.integers(0, len(CLASSES), (SIDE, SIDE), dtype=np.uint8)
        noisy = np.clip(ids[..., None] * 80 + rng.normal(40, 12, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
        save(folder / "images" / f"{stem}.png", np.zeros_like(noisy) if black else noisy)
        if masks:
            save(folder / "masks" / f"{stem}.png", ids if only is None else np.full_like(ids, only))


def save(path: Path, pixels: np.ndarray) -> None:
    """A PNG, with the folders that its name asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def lay_out(root: Path) -> Path:
    """The sets and their config."""
    draw(root / "city", [f"d{i // 3}_{i}" for i in range(30)])
    draw(root / "one_picture", ["d0_1"])
    draw(root / "one_group", [f"d0_{i}" for i in range(6)])
    draw(root / "one_class", SIX, only=1)
    draw(root / "all_void", SIX, only=VOID)
    draw(root / "black", SIX, black=True)
    draw(root / "one_unlabelled", ["d0_1"], masks=False)
    draw(root / "hostile_names", [f"{name}_{i}" for i, name in enumerate(NAMES.values())])
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    sets = {name: {"name": name, "reader": "folder", "root": name, "group": "^(.*)_[0-9]+$"} for name in names}
    settings = {
        "store": str(root / "store"),
        "classes": CLASSES,
        "model": {"input_size": [SIDE, SIDE], "training": {"epochs": 1, "batch_size": 4}},
        "source": sets.pop("city"),
        "targets": list(sets.values()),
        "experiments": {"only": ["exposure", "channel_statistics"]},
        "statistics": {"permutations": 99, "bootstrap": 100, "noise_floor_draws": 10},
    }
    path = root / "gap.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def main(root: Path) -> int:
    """Lay out, run, tell."""
    warnings.simplefilter("ignore")
    config = load_config(lay_out(root))
    store = SampleStore(config.store)
    outcome = Rerun(build_defs(config), open_instance(store)).run()
    said = [outcome.summary(), *(f"{'/'.join(key.path)}: {why}" for key, why in outcome.failed.items())]
    reports = {target.name: ("reports", target.name, "report.json") for target in config.targets}
    for name, path in reports.items():
        said.append(f"{name}: {store.read_json(*path)['headline'] if store.exists(*path) else 'no report'}")
    sys.stdout.write("\n".join(said) + "\n")
    return int(bool(outcome.failed or outcome.blocked) or not all(store.exists(*path) for path in reports.values()))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
