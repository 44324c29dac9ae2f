"""What every data set reader gives: a list of sample files, and decoders for its pictures and masks.

Belongs here: the reader's contract, and what all readers share (selection, decoding of pictures).
Does not: a particular layout on disk (one module each beside this one), hashing, tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from resources.config import Selection
from resources.errors import DatasetError, UnreadableSample

IGNORE = 255
"""Class index of pixels that no statistic counts."""

MAX_PIXELS = 100_000_000
"""Above this a picture is taken for a decompression bomb: no street camera comes near."""

_SHOWN = 20
_UPRIGHT = 1


@dataclass(frozen=True, slots=True)
class SampleFile:
    """One picture on disk, found but not yet opened.

    `sample_id` is unique within its data set and stable: the picture's path below its image folder, without suffix,
    '/' between folders. `group` is '' where the set does not say what makes samples dependent; `split` is '' where
    it has none.
    """

    sample_id: str
    image: Path
    mask: Path | None
    split: str
    group: str

    @property
    def name(self) -> str:
        """The last part of the id: what the picture is called in its own folder."""
        return self.sample_id.rpartition("/")[2]


class Reader(Protocol):
    """A data set as its files. Scanning never opens a picture."""

    def scan(self) -> list[SampleFile]:
        """All samples that the config selects, sorted by sample_id.

        Raises DatasetError (folder, what was expected there, what to do) when there is none.
        """
        ...

    def read_mask(self, path: Path) -> NDArray[np.uint8]:
        """Class indices of the config's class list, shape (height, width), `IGNORE` where no class applies.

        Raises UnreadableSample for a file that can't be decoded or holds an id that the label map does not know.
        """
        ...

    def metadata(self, samples: list[SampleFile]) -> dict[str, dict[str, float | str]]:
        """Side information by sample_id (numbers and short texts), {} for samples without any."""
        ...


def apply_selection(samples: list[SampleFile], select: Selection | None, limit: int | None) -> list[SampleFile]:
    """The samples that meet every condition, sorted by sample_id; a limit keeps the first ones.

    `names` are matched against the whole sample_id or its last part: a list literally, a single text as a glob.
    Raises DatasetError naming the values that exist when a condition keeps nothing.
    """
    kept = sorted(samples, key=lambda sample: sample.sample_id)
    select = select or Selection()
    kept = _keep_in(kept, "splits", select.splits, lambda sample: sample.split)
    kept = _keep_in(kept, "groups", select.groups, lambda sample: sample.group)
    kept = _keep_named(kept, select.names)
    limits = [count for count in (select.limit, limit) if count is not None]
    return kept[: min(limits)] if limits else kept


def decode(path: Path) -> Image.Image:
    """The one picture in a file, every pixel read, turned upright where its EXIF orientation says so.

    Raises UnreadableSample with a plain reason that begins with the file's name.
    """
    try:
        return _decoded(path)
    except UnreadableSample:
        raise
    except FileNotFoundError:
        reason = "no such file"
    except UnidentifiedImageError:
        reason = "empty file (0 bytes)" if path.stat().st_size == 0 else "not a picture in any known format"
    except Image.DecompressionBombError:
        reason = f"a decompression bomb: more than {MAX_PIXELS:,} pixels"
    except PermissionError:
        reason = "no permission to read it"
    except Exception as error:  # decoders raise whatever corrupt bytes lead them to
        reason = f"truncated or corrupt: {' '.join(str(error).split()) or type(error).__name__}"
    raise UnreadableSample(f"{path.name}: {reason}")


def read_image(path: Path) -> NDArray[np.uint8]:
    """A picture as RGB of shape (height, width, 3).

    Grey is repeated, palettes and CMYK are converted, 16 bits keep their high byte (as Pillow does for colour),
    alpha is dropped. Raises UnreadableSample with a plain reason that begins with the file's name.
    """
    image = decode(path)
    if image.mode.startswith("I"):
        return _deep_grey(path, np.asarray(image))
    if image.mode == "F":
        raise UnreadableSample(f"{path.name}: floating-point pixels, expected 8 or 16 bits")
    if image.mode in ("P", "PA", "LA", "La", "RGBa"):  # their transparency is only dropped cleanly by way of RGBA
        image = image.convert("RGBA")
    try:
        return np.array(image.convert("RGB"))
    except ValueError:
        raise UnreadableSample(f"{path.name}: no conversion from mode {image.mode} to RGB") from None


def _keep_in(
    samples: list[SampleFile], key: str, wanted: list[str] | None, value: Callable[[SampleFile], str]
) -> list[SampleFile]:
    if wanted is None:
        return samples
    kept = [sample for sample in samples if value(sample) in wanted]
    if not kept:
        raise _keeps_nothing(key, wanted, sorted({value(sample) for sample in samples} - {""}))
    return kept


def _keep_named(samples: list[SampleFile], names: list[str] | str | None) -> list[SampleFile]:
    if names is None:
        return samples
    if isinstance(names, str):
        kept = [s for s in samples if fnmatchcase(s.sample_id, names) or fnmatchcase(s.name, names)]
    else:
        listed = set(names)
        kept = [s for s in samples if s.sample_id in listed or s.name in listed]
    if not kept:
        raise _keeps_nothing("names", names, [sample.sample_id for sample in samples])
    return kept


def _keeps_nothing(key: str, wanted: list[str] | str, existing: list[str]) -> DatasetError:
    asked = wanted if isinstance(wanted, str) else ", ".join(wanted)
    shown = ", ".join(existing[:_SHOWN]) or "none"
    more = f" and {len(existing) - _SHOWN} more" if len(existing) > _SHOWN else ""
    return DatasetError(f"no sample has {key} [{asked}]; {key} that exist: {shown}{more}")


def _decoded(path: Path) -> Image.Image:
    with Image.open(path) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        # An MPO is a camera's JPEG with a preview beside the picture; only its first frame counts.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames != 1:
            raise UnreadableSample(f"{path.name}: animated or multi-page ({frames} frames), expected one picture")
        if image.format == "PNG":
            _check_sums(path)
        image.load()
        turned = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT) != _UPRIGHT
        return ImageOps.exif_transpose(image) if turned else image


def _check_sums(path: Path) -> None:
    """Decoding a PNG stops at its last row and so misses damage that its checksums show."""
    with Image.open(path) as image:
        image.verify()


def _deep_grey(path: Path, values: NDArray[np.integer]) -> NDArray[np.uint8]:
    if values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
        raise UnreadableSample(f"{path.name}: 32-bit pixels, expected 8 or 16 bits")
    return np.repeat((values >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
