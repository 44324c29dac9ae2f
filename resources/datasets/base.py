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

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
"""What a file may hold, whatever it is called; Pillow's other decoders run programs (EPS) or guess at what they see."""

_SHOWN = 20
_UPRIGHT = 1
_TRANSPOSED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""
_LEAST_DEEP = 1 << 12
"""Below this no 16-bit picture stays: it holds 12 bits or fewer that nobody scaled up, and would come out black."""
_DEEP_SHIFTS = {"I;16": 8, "I;16B": 8, "I;16L": 8, "I;16N": 8, "I;12": 4}
"""Bits to drop by how a file stores its grey; signed and 32-bit integers have no white that could be known."""
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp", "jpeg2000")


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


@dataclass(frozen=True, slots=True)
class Decoded:
    """The one picture of a file, upright, and how the file stores it.

    `stored` is Pillow's raw mode ('L;4': four bits a pixel), `orientation` the EXIF orientation that was undone (1:
    none), `lossy` says that compression may have changed the values.
    """

    name: str
    image: Image.Image
    stored: str
    orientation: int
    lossy: bool

    def tells_upright(self) -> bool:
        """Whether a mask that fits its size is upright, too: it was not turned, or turned to a size of its own."""
        sides_tell = self.orientation in _TRANSPOSED and self.image.width != self.image.height
        return self.orientation == _UPRIGHT or sides_tell


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


def decode(path: Path) -> Decoded:
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
        known = f"not a picture in a known format ({', '.join(FORMATS)}; integers, not floats)"
        reason = "empty file (0 bytes)" if path.stat().st_size == 0 else known
    except Image.DecompressionBombError:
        reason = f"a decompression bomb: more than {MAX_PIXELS:,} pixels"
    except PermissionError:
        reason = "no permission to read it"
    except Exception as error:  # decoders raise whatever corrupt bytes lead them to
        reason = f"truncated or corrupt: {' '.join(str(error).split()) or type(error).__name__}"
    raise UnreadableSample(f"{path.name}: {reason}")


def read_image(path: Path) -> NDArray[np.uint8]:
    """A picture as RGB of shape (height, width, 3). Raises UnreadableSample: see `decode` and `as_rgb`."""
    return as_rgb(decode(path))


def as_rgb(picture: Decoded) -> NDArray[np.uint8]:
    """A decoded picture as RGB of shape (height, width, 3).

    Grey is repeated, palettes and CMYK are converted, 16 bits keep their high byte (as Pillow does for colour),
    alpha is dropped. Raises UnreadableSample, beginning with the file's name, for values whose white is not known.
    """
    image = picture.image
    if image.mode.startswith("I"):
        return _deep_grey(picture)
    if image.mode == "F":
        raise UnreadableSample(f"{picture.name}: floating-point pixels, expected 8 or 16 bits")
    if image.mode in ("P", "PA", "LA", "La", "RGBa"):  # their transparency is only dropped cleanly by way of RGBA
        image = image.convert("RGBA")
    try:
        pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError:
        raise UnreadableSample(f"{picture.name}: no conversion from mode {image.mode} to RGB") from None
    if "16" in picture.stored:
        _check_scaled(picture.name, int(pixels.max()) << 8)
    return pixels


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


def _decoded(path: Path) -> Decoded:
    with Image.open(path, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        # An MPO is a camera's JPEG with a preview beside the picture; only its first frame counts.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames != 1:
            raise UnreadableSample(f"{path.name}: animated or multi-page ({frames} frames), expected one picture")
        _check_whole(path, image.format)
        _check_black(path.name, image)
        stored, lossy = _raw_mode(image), _is_lossy(path, image)
        image.load()
        orientation = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
        upright = image if orientation == _UPRIGHT else ImageOps.exif_transpose(image)
        return Decoded(path.name, upright, stored, orientation, lossy)


def _check_whole(path: Path, kind: str | None) -> None:
    """Damage that decoding misses: it stops at a PNG's last row, and takes a JPEG's missing end for grey."""
    if kind == "PNG":
        with Image.open(path, formats=FORMATS) as image:
            image.verify()
    elif kind in ("JPEG", "MPO"):
        content = path.read_bytes()
        scan, end = content.rfind(b"\xff\xda"), content.rfind(b"\xff\xd9")
        if end < scan:
            raise UnreadableSample(f"{path.name}: truncated or corrupt: the JPEG has no end")


def _check_black(name: str, image: Image.Image) -> None:
    """Pillow turns 8-bit TIFFs whose 0 is white, and leaves those of 16 bits a negative."""
    photometric = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC)
    if image.mode.startswith("I") and photometric == _WHITE_IS_ZERO:
        raise UnreadableSample(f"{name}: a TIFF of 16 bits whose 0 is white; save it with 0 as black")


def _raw_mode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", None)  # WebP has none
    arguments = tiles[0].args if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _is_lossy(path: Path, image: Image.Image) -> bool:
    if image.format == "WEBP":
        with path.open("rb") as file:
            return file.read(16)[12:] != b"VP8L"
    return image.format in ("JPEG", "MPO") or image.info.get("compression") in _LOSSY_TIFF


def _deep_grey(picture: Decoded) -> NDArray[np.uint8]:
    shift = _DEEP_SHIFTS.get(picture.stored)
    if shift is None:
        depth = "signed 16-bit" if picture.stored.startswith("I;16") else "32-bit"
        raise UnreadableSample(f"{picture.name}: {depth} pixels, expected 8 or 16 bits")
    values = np.asarray(picture.image)
    _check_scaled(picture.name, int(values.max()) << (8 - shift))
    return np.repeat((values >> shift).astype(np.uint8)[:, :, None], 3, axis=2)


def _check_scaled(name: str, brightest: int) -> None:
    if brightest < _LEAST_DEEP:
        raise UnreadableSample(
            f"{name}: 16 bits a pixel and none above {_LEAST_DEEP - 1}: black, or 12 bits or fewer that were not "
            "scaled up; save it with 8 bits"
        )
