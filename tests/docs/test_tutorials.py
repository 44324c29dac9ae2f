"""The tutorials' commands, one after the other, on tiny sets in the layouts that they show.

`run` runs dry here (tests/pipelines run it for good), `ui` and the shell's completion not at all.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.init import propose
from resources.config import load_config
from resources.datasets import open_reader

DOCS = Path(__file__).resolve().parents[2] / "docs"
SIZE = (64, 96)
SMALL = {"architecture": "PSPNet", "input_size": list(SIZE)}
LEFT_OUT = ("ui", "--install-completion", "--show-completion")


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[list[str]]:
    lines = [line.split("#")[0] for block in blocks(page, "console") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("domain-gap")]


def put(path: Path, *, mask: bool) -> None:
    """A picture, or Cityscapes' label ids: sky, buildings, road, a car."""
    rng = np.random.default_rng(len(str(path)))
    ids = np.full(SIZE, 7, np.uint8)
    ids[:24], ids[24:34], ids[40:50, 20:40] = 23, 11, 26
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids if mask else rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)).save(path)


def layouts(page: str, root: Path) -> None:
    """The folders that a page shows in its first text block, each path with a few neighbours."""
    for line in blocks(page, "text")[0].splitlines():
        for i in range(8):
            name = re.sub(
                r"0{3,}(\d*)", lambda match, i=i: f"{int(match[1] or 0) + i:0{len(match[0])}d}", line, count=1
            )
            put(root / name, mask=bool(re.search("gtFine|semantic|masks", line)))


@pytest.fixture
def say(tmp_path, monkeypatch):
    """Run a command as typed, in a folder with the page's sets."""
    monkeypatch.chdir(tmp_path)
    for name in ("GAP_CONFIG", "GAP_STORE", "GAP_USER_CODE"):
        monkeypatch.delenv(name, raising=False)
    runner = CliRunner()

    def say(*arguments: str):
        result = runner.invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    return say


def with_small_network(path: Path) -> None:
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**raw, "model": SMALL}), encoding="utf-8")


def test_cityscapes_to_kitti(tmp_path, say):
    page = "tutorial-cityscapes-kitti.md"
    layouts(page, tmp_path)
    (tmp_path / "weights.safetensors").touch()
    init, check, dry, run, report = commands(page)
    assert "next: domain-gap check" in say(*init)
    written, shown = (yaml.safe_load(text) for text in ((tmp_path / "gap.yaml").read_text(), blocks(page, "yaml")[0]))
    shown["model"]["input_size"] = written["model"]["input_size"]  # of the pictures that there are
    shown["targets"][0] |= {"group_blocks": written["targets"][0]["group_blocks"]}
    assert written == shown
    with_small_network(tmp_path / "gap.yaml")  # the weights are an empty file
    assert "holdout 8 pictures" in say(*check)
    assert dry == [*run, "--dry-run"]
    assert "missing  kitti/gap_report" in say(*dry)
    assert "no report yet" in say(*[word for word in report if word != "--open"])


def test_unlabelled(tmp_path, say):
    page = "tutorial-unlabelled.md"
    layouts(page, tmp_path)
    init, check, run, report, export = commands(page)
    assert "the target has no masks" in say(*init)
    target = yaml.safe_load((tmp_path / "gap.yaml").read_text())["targets"][0]
    assert target == yaml.safe_load(blocks(page, "yaml")[0])
    with_small_network(tmp_path / "gap.yaml")
    assert "the loss is estimated" in say(*check)
    assert "missing  fleet/gap_report" in say(*run, "--dry-run")
    assert "no report yet" in say(*report)
    assert export[:3] == ["export", "--target", "fleet"]
    for i in range(3):
        put(tmp_path / f"data/fleet/2024-11-02/cam0/{i + 1:06d}_mask.png", mask=True)
    raw = yaml.safe_load((tmp_path / "gap.yaml").read_text())
    raw["classes"], raw["targets"] = ["road", "sky", "car"], [yaml.safe_load(blocks(page, "yaml")[1])]
    raw["source"].pop("labels", None)
    (tmp_path / "gap.yaml").write_text(yaml.safe_dump(raw))
    config = load_config(tmp_path / "gap.yaml")
    assert sum(sample.mask is not None for sample in open_reader(config, config.targets[0]).scan()) == 3


def test_first_hour(tmp_path, say):
    for name in ("ours", "theirs"):
        for i in range(8):
            put(tmp_path / f"{name}/images/d{i // 2}_{i:03d}.png", mask=False)
            put(tmp_path / f"{name}/masks/d{i // 2}_{i:03d}.png", mask=True)
    (tmp_path / "gap.yaml").write_text(propose(tmp_path / "ours", tmp_path / "theirs", tmp_path).text)
    with_small_network(tmp_path / "gap.yaml")
    for arguments in commands("first-hour.md"):
        if arguments[0] in ("check", "status") or "--dry-run" in arguments:
            say(*arguments)
        else:
            assert arguments[0] in ("init", "run", "report", *LEFT_OUT)
