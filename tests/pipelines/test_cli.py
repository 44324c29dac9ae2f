"""The command line as a user meets it: through its console entry, or, where a process adds nothing, in this one."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.numpy import save_file

from pipelines.cli import main

ENTRY = Path(sys.executable).with_name("domain-gap")
HEAVY = ("torch", "faiss", "sklearn", "scipy", "segmentation_models_pytorch", "great_expectations", "ray")
COMMANDS = ("demo", "run", "status", "report", "check", "export", "init", "ui")

pytestmark = pytest.mark.skipif(not ENTRY.exists(), reason="the project is not installed beside this Python")


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GAP_")}
    return subprocess.run(
        [ENTRY, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def here(monkeypatch, capfd) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`call`, in this process: what it imports is there already."""

    def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["domain-gap", *arguments])
        monkeypatch.setattr(sys, "path", [*sys.path])
        for name in [name for name in os.environ if name.startswith("GAP_")]:
            monkeypatch.delenv(name)
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        said = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, end.value.code or 0, said.out, said.err)

    return call


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True).stdout


def assert_one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2 and one line on standard error that holds the words."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert all(word in result.stderr for word in words), result.stderr


@pytest.fixture
def sets(tmp_path):
    """A working folder with two small data sets, day/ and dusk/."""
    rng = np.random.default_rng(0)
    for name in ("day", "dusk"):
        for kind in ("images", "masks"):
            (tmp_path / name / kind).mkdir(parents=True)
        for i in range(12):
            stem = f"drive{i // 3}_{i:03d}.png"
            Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(tmp_path / name / "images" / stem)
            Image.fromarray(rng.integers(0, 2, (48, 64), dtype=np.uint8)).save(tmp_path / name / "masks" / stem)
    return tmp_path


@pytest.fixture
def config(sets):
    """Write gap.yaml over the two sets, with other values for some of its keys."""

    def config(**changes) -> Path:
        raw = {
            "classes": ["road", "sky"],
            "model": {"input_size": [64, 64]},
            "source": {"name": "day", "reader": "folder", "root": "day", "group": "^(drive[0-9])_"},
            "targets": [{"name": "dusk", "reader": "folder", "root": "dusk", "group": "^(drive[0-9])_"}],
        }
        path = sets / "gap.yaml"
        path.write_text(yaml.safe_dump({**raw, **changes}))
        return sets

    return config


class TestImports:
    def test_help_lists_the_commands_and_needs_neither_dagster_nor_torch(self):
        said = python(
            "import sys\n"
            "from pipelines.cli import main\n"
            "sys.argv = ['domain-gap', '--help']\n"
            "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
            "print([name for name in ('dagster', 'torch', 'polars') if name in sys.modules])"
        )
        assert all(f"\n  {name} " in said for name in COMMANDS)
        assert said.endswith("[]\n")

    def test_definitions_leave_heavy_packages_alone(self):
        said = python(f"import sys, pipelines.definitions\nprint([name for name in {HEAVY!r} if name in sys.modules])")
        assert said == "[]\n"


class TestRefusals:
    def test_bad_usage(self, here, tmp_path):
        for arguments in (["run", "--bogus"], ["nosuch"], ["init", "only-one"]):
            result = here(tmp_path, *arguments)
            assert result.returncode == 2
            assert "Traceback" not in result.stderr

    def test_unknown_key(self, config):
        assert_one_line(call(config(clases=["a", "b"]), "status"), "gap.yaml", "clases", "did you mean 'classes'")

    def test_missing_folder(self, here, config):
        changed = config(targets=[{"name": "dusk", "reader": "folder", "root": "nowhere"}])
        assert_one_line(here(changed, "status"), "targets.0.root", "nowhere")

    def test_folder_without_pictures_is_found_when_a_run_looks_at_it(self, here, config):
        folder = config()
        for picture in (folder / "dusk/images").iterdir():
            picture.unlink()
        assert_one_line(here(folder, "run", "--dry-run"), "dusk", "no pictures")

    def test_unknown_target(self, here, config):
        assert_one_line(here(config(), "run", "--target", "dawn"), "--target dawn", "dusk")

    def test_checkpoint_of_other_classes(self, config):
        folder = config(model={"input_size": [64, 64], "checkpoint": "weights.safetensors"})
        save_file({"segmentation_head.0.weight": np.zeros((5, 8, 1, 1), np.float32)}, folder / "weights.safetensors")
        assert_one_line(call(folder, "run"), "2 names", "5 output channels")
        assert not (folder / "gap-data/reports").exists(), "it is refused before anything runs"


class TestFirstSteps:
    def test_init_then_check(self, here, sets):
        made = call(sets, "init", "day", "dusk")
        assert made.returncode == 0, made.stderr
        assert "domain-gap check" in made.stdout
        (sets / "mine.py").write_text(
            "from assets.traits.registry import register_trait\n"
            "@register_trait('left_half', family='exposure')\n"
            "def left_half(image, mask):\n    return float(image[:, : image.shape[1] // 2].mean())\n"
        )
        text = (sets / "gap.yaml").read_text()
        (sets / "gap.yaml").write_text(text.replace("# traits: {modules: []}", "traits: {modules: [mine]}"))
        checked = call(sets, "check")
        assert checked.returncode == 0, checked.stderr
        assert "data day: 12 pictures (12 with masks, 4 groups)" in checked.stdout
        assert "fits" in checked.stdout
        assert_one_line(here(sets, "init", "day", "dusk"), "gap.yaml", "already there")
        assert_one_line(here(sets, "init", "day", "masks", "--output", "other.yaml"), "masks", "no such folder")

    def test_a_fresh_store_is_missing_everything_and_a_dry_run_makes_nothing(self, here, config):
        folder = config()
        dry = call(folder, "run", "--dry-run", "--store", "elsewhere")
        assert dry.returncode == 0, dry.stderr
        assert "missing  source/manifest" in dry.stdout
        assert "missing  dusk/gap_report" in dry.stdout
        tables = {path.parent.relative_to(folder / "elsewhere").parts[-1] for path in folder.rglob("_delta_log")}
        assert tables == {"files"}, "a dry run looks at the folders and no further"
        known = call(folder, "status", "--store", "elsewhere")
        assert known.returncode == 0, known.stderr
        assert set(dry.stdout.splitlines()) == set(known.stdout.splitlines())
        told = here(folder, "report", "--store", "elsewhere")
        assert told.returncode == 0
        assert "no report yet" in told.stdout
