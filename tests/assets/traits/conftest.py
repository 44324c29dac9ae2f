"""Pictures that the tests of traits share: a synthetic street-like scene, and real ones where they are at hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

REAL = Path(__file__).parents[3] / ".." / "shared" / "data"


@pytest.fixture(scope="session")
def scene():
    """A picture with edges, texture, colour and dark parts, (1, 3, 120, 160) in 0..1, without noise."""
    rng = np.random.default_rng(3)
    planes = [ndimage.gaussian_filter(rng.normal(size=(120, 160)), 2, mode="wrap") for _ in range(3)]
    picture = 0.45 + 0.5 * np.stack(planes) + 0.15 * np.sign(planes[0])
    picture[:, 70:, :50] *= 0.4
    return torch.tensor(np.clip(picture, 0, 1), dtype=torch.float32)[None]


@pytest.fixture(scope="session")
def real_paths():
    """Files of eight real street pictures per data set."""
    if not REAL.is_dir():
        pytest.skip(f"no real pictures at {REAL.resolve()}")
    found = {}
    for name in ("camvid", "kitti"):
        paths = sorted((REAL / name / "images").iterdir())
        paths = [path for path in paths if path.suffix in {".png", ".jpg"}]
        found[name] = paths[:: max(1, len(paths) // 8)][:8]
    return found


@pytest.fixture(scope="session")
def real_batches(real_paths):
    """Real street pictures resized to 240 × 320, one batch per data set."""
    batches = {}
    for name, paths in real_paths.items():
        pictures = [np.asarray(Image.open(path).convert("RGB").resize((320, 240), Image.BILINEAR)) for path in paths]
        batches[name] = torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    return batches
