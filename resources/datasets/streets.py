"""The built-in data `streets`: drawn street scenes with exact masks, rendered once into a folder and read from it.

Belongs here: the reader, and what is rendered when. Does not: the scenes' laws (`streets_scenes`), drawing
(`streets_render`).
"""

from __future__ import annotations

import difflib
import io
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resources.config import Selection
from resources.datasets.base import SampleFile, apply_selection
from resources.datasets.label_map import LabelMap, Table
from resources.datasets.layout import IMAGE_SUFFIXES, find_files
from resources.datasets.streets_render import GENERATOR, render
from resources.datasets.streets_scenes import FRAMES_PER_DRIVE, SCENES, STREETS_CLASSES, frame_name
from resources.errors import DatasetError
from resources.progress import track

__all__ = ["SCENES", "STREETS_CLASSES", "StreetsReader"]


@dataclass(frozen=True, slots=True)
class _Rendered:
    """What `scene.json` says: pictures 0 to `rendered` - 1 of this scene were written, whatever became of them."""

    scene: str
    seed: int
    generator: int
    rendered: int

    @classmethod
    def read(cls, path: Path) -> _Rendered | None:
        """The state of a folder; None where there is none that can be read."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def is_same_scene(self, other: _Rendered) -> bool:
        return replace(self, rendered=0) == replace(other, rendered=0)


class StreetsReader:
    """Pictures 0 to `count` - 1 of a scene, in `folder`/images and masks, and whatever the user adds to them there.

    Pictures are rendered by the first scan and never again: one that is deleted stays deleted, one that is changed
    stays changed, until scene, seed or generator change. A smaller `count` leaves the rest aside. Ten consecutive
    pictures are a drive and share weather and light; a sample's group is its name before the last '_'.
    """

    def __init__(
        self,
        *,
        folder: Path,
        scene: str,
        count: int,
        seed: int,
        select: Selection | None,
        limit: int | None,
        classes: tuple[str, ...],
    ) -> None:
        """Raises DatasetError for a scene that does not exist, and for classes of which `streets` has none."""
        if scene not in SCENES:
            near = difflib.get_close_matches(scene, SCENES, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise DatasetError(f"streets has no scene {scene!r}; {hint}expected one of: {', '.join(SCENES)}")
        self._folder = folder
        self._scene = _Rendered(scene, seed, GENERATOR, 0)
        self._count = count
        self._select = select
        self._limit = limit
        table: Table = {**dict(enumerate(STREETS_CLASSES)), 255: None}
        self._labels = LabelMap.from_table(table, classes)

    def scan(self) -> list[SampleFile]:
        """See `Reader`; the first scan renders, some 30 pictures a second."""
        state = self._render_missing()
        beyond = {frame_name(index) for index in range(self._count, state.rendered)}
        images = find_files(self._folder / "images", *IMAGE_SUFFIXES)
        masks = find_files(self._folder / "masks", *IMAGE_SUFFIXES)
        samples = [
            SampleFile(key, image, masks.get(key), split="", group=key.rpartition("_")[0])
            for key, image in images.items()
            if key not in beyond
        ]
        if not samples:
            raise DatasetError(
                f"{self._folder}: no pictures; expected images/ as it was rendered; "
                "delete scene.json there to have the scene rendered anew"
            )
        try:
            return apply_selection(samples, self._select, self._limit)
        except DatasetError as error:
            raise DatasetError(f"{self._folder}: {error}") from None

    def read_mask(self, path: Path) -> NDArray[np.uint8]:
        """See `Reader`."""
        return self._labels.read(path)

    def metadata(self, samples: list[SampleFile]) -> dict[str, dict[str, float | str]]:  # noqa: ARG002
        """None: a rendered picture has no side information."""
        return {}

    def _render_missing(self) -> _Rendered:
        """Render up to `count`, a drive at a time, so that a killed run loses a drive at most."""
        try:
            state = self._begin()
            first = state.rendered
            for index in track(
                range(first, self._count), f"rendering {self._scene.scene}", max(self._count - first, 0)
            ):
                self._write(index)
                if (index + 1) % FRAMES_PER_DRIVE == 0 or index + 1 == self._count:
                    state = self._save(replace(state, rendered=index + 1))
        except OSError as error:
            raise DatasetError(
                f"{self._folder}: can't be written: {error.strerror}; "
                "expected a folder with write access and free space"
            ) from None
        return state

    def _begin(self) -> _Rendered:
        """The folder's state, after the pictures of another scene have been removed from it."""
        for kind in ("images", "masks"):
            (self._folder / kind).mkdir(parents=True, exist_ok=True)
        state = _Rendered.read(self._folder / "scene.json")
        if state is not None and state.is_same_scene(self._scene):
            return state
        for index in range(state.rendered if state else 0):
            for path in self._paths(index):
                path.unlink(missing_ok=True)
        return self._save(self._scene)

    def _paths(self, index: int) -> tuple[Path, Path]:
        name = f"{frame_name(index)}.png"
        return self._folder / "images" / name, self._folder / "masks" / name

    def _write(self, index: int) -> None:
        image, mask = self._paths(index)
        picture, ids = render(self._scene.scene, self._scene.seed, index)
        _replace(mask, _png(ids))
        _replace(image, _png(picture))

    def _save(self, state: _Rendered) -> _Rendered:
        _replace(self._folder / "scene.json", json.dumps(asdict(state)).encode())
        return state


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, whoever else writes it at the same time."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
