"""Odd and malformed input by name: how each is made, and what has to come of it.

Belongs here: bytes, layouts, texts, and the expected outcome. Does not: running them (`outcomes.py`), asserting.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = [f"c{i}" for i in range(8)]
HEIGHT, WIDTH = 24, 32
VOID = 255

_rng = np.random.default_rng(0)
PICTURE = _rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
PICTURE[0, 0] = 255  # so that a 16-bit copy reaches its white
GREY = PICTURE[..., 0]
FLAT = np.repeat(np.array([[[10, 20, 30]], [[200, 100, 50]]], np.uint8), WIDTH, axis=1).repeat(HEIGHT // 2, axis=0)
IDS = _rng.integers(0, 8, (HEIGHT, WIDTH), dtype=np.uint8)

Kind = Literal["used", "quarantined", "left aside"]


@dataclass(frozen=True)
class FileCase:
    """One picture, perhaps with a mask: bytes, or something else that lies in their place.

    `image` and `mask` are what a used sample decodes to (`tolerance` in grey values for lossy formats); `phrase` is
    part of a quarantined one's reason.
    """

    title: str
    kind: Kind
    content: bytes | Callable[[Path], Any]
    suffix: str = ".png"
    mask_content: bytes | None = None
    mask_suffix: str = ".png"
    phrase: str = ""
    image: NDArray[np.uint8] | None = None
    mask: NDArray[np.uint8] | None = None
    tolerance: int = 0
    stem: str = ""
    mask_stem: str = ""

    @property
    def sample_id(self) -> str:
        """The name of the file: the title's, or one of its own where names are what is tried."""
        return self.stem or "".join(sign if sign.isalnum() else "_" for sign in self.title)

    def place(self, root: Path) -> None:
        """Write the case's files into a data set's folder."""
        image = root / "images" / f"{self.sample_id}{self.suffix}"
        image.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(self.content, bytes):
            image.write_bytes(self.content)
        else:
            self.content(image)
        if self.mask_content is not None:
            mask = root / "masks" / f"{self.mask_stem or self.sample_id}{self.mask_suffix}"
            mask.parent.mkdir(parents=True, exist_ok=True)
            mask.write_bytes(self.mask_content)


def encoded(pixels: NDArray[Any] | Image.Image, kind: str, **options: Any) -> bytes:
    """A picture as a file's bytes."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(
    size: tuple[int, int], depth: int, colour: int, rows: bytes, *, extra: bytes = b"", palette: bytes = b""
) -> bytes:
    """A PNG of raw rows (each with its filter byte), of any depth."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    body = extra + (_chunk(b"PLTE", palette) if palette else b"")
    return b"\x89PNG\r\n\x1a\n" + header + body + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(size: tuple[int, int], bits: int, data: bytes, *, photometric: int = 1, sample_format: int = 1) -> bytes:
    """A grey TIFF of one strip. `photometric` 0: zero is white; `sample_format` 2: signed, 3: floats."""
    longs, shorts = 4, 3
    tags = [
        (256, longs, size[0]), (257, longs, size[1]), (258, shorts, bits), (259, shorts, 1), (262, shorts, photometric),
        (273, longs, 8), (277, shorts, 1), (278, longs, size[1]), (279, longs, len(data)), (339, shorts, sample_format),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def turned(orientation: int) -> Image.Exif:
    """EXIF that says how the camera was held."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def packed_rows(ids: NDArray[np.uint8], bits: int) -> bytes:
    """Rows of a PNG whose pixels have fewer than eight bits."""
    per_byte = 8 // bits
    shifts = np.arange(per_byte)[::-1] * bits
    packed = (ids.reshape(len(ids), -1, per_byte) << shifts).sum(axis=2).astype(np.uint8)
    return b"".join(b"\0" + row.tobytes() for row in packed)


def file_cases() -> list[FileCase]:
    """Every case of one file or one pair of files."""
    return [*_sound_pictures(), *_broken_pictures(), *_deep_pictures(), *_turned(), *_masks(), *_names(), *_no_files()]


def _used(title: str, content: bytes, suffix: str = ".png", image: Any = PICTURE, **more: Any) -> FileCase:
    return FileCase(title, "used", content, suffix, image=image, **more)


def _bad(title: str, phrase: str, content: Any, suffix: str = ".png", **more: Any) -> FileCase:
    return FileCase(title, "quarantined", content, suffix, phrase=phrase, **more)


def _sound_pictures() -> list[FileCase]:
    colour = Image.new("RGB", (WIDTH, HEIGHT), (200, 30, 60))
    flat_colour = np.full((HEIGHT, WIDTH, 3), (200, 30, 60), np.uint8)
    grey3 = np.repeat(GREY[..., None], 3, axis=2)
    alpha = np.concatenate([PICTURE, GREY[..., None]], axis=2)
    smooth = Image.fromarray(PICTURE).resize((WIDTH, HEIGHT)).convert("RGB")
    preview = Image.new("RGB", (4, 4))
    two_bit = np.repeat((IDS[:, :, None] % 4) * 85, 3, axis=2)
    return [
        _used("PNG, colour", encoded(PICTURE, "PNG")),
        _used("BMP, colour", encoded(PICTURE, "BMP"), ".bmp"),
        _used("TIFF, colour", encoded(PICTURE, "TIFF"), ".tif"),
        _used("TIFF, LZW-compressed", encoded(PICTURE, "TIFF", compression="tiff_lzw"), ".tiff"),
        _used("WebP, lossless", encoded(PICTURE, "WEBP", lossless=True), ".webp"),
        _used("JPEG, colour", encoded(colour, "JPEG", quality=95), ".jpg", flat_colour, tolerance=3),
        _used("JPEG, progressive", encoded(colour, "JPEG", quality=95, progressive=True), ".jpeg", flat_colour,
              tolerance=3),
        _used("JPEG, grey", encoded(Image.new("L", (WIDTH, HEIGHT), 90), "JPEG"), ".jpg",
              np.full((HEIGHT, WIDTH, 3), 90, np.uint8), tolerance=2),
        _used("JPEG called .png", encoded(colour, "JPEG", quality=95), ".png", flat_colour, tolerance=3),
        _used("PNG called .jpg", encoded(PICTURE, "PNG"), ".jpg"),
        _used("suffix in capitals", encoded(PICTURE, "PNG"), ".PNG"),
        _used("JPEG with a camera's preview (MPO)",
              encoded(colour, "MPO", save_all=True, append_images=[preview]), ".jpg", flat_colour, tolerance=3),
        _used("JPEG, CMYK", encoded(colour.convert("CMYK"), "JPEG", quality=95), ".jpg", flat_colour, tolerance=5),
        _used("TIFF, CMYK", encoded(colour.convert("CMYK"), "TIFF"), ".tif", flat_colour, tolerance=2),
        _used("TIFF, CIELAB", encoded(colour.convert("LAB"), "TIFF"), ".tif", flat_colour, tolerance=3),
        _used("PNG, grey", encoded(GREY, "PNG"), image=grey3),
        _used("PNG, grey with alpha", encoded(np.stack([GREY, GREY], 2), "PNG"), image=grey3),
        _used("PNG, colour with alpha", encoded(alpha, "PNG")),
        _used("PNG, wholly transparent", encoded(np.concatenate([PICTURE, GREY[..., None] * 0], 2), "PNG")),
        _used("PNG, palette", encoded(Image.fromarray(FLAT).quantize(2), "PNG"), image=FLAT),
        _used("PNG, palette with transparency",
              encoded(Image.fromarray(FLAT).quantize(2), "PNG", transparency=b"\0\x80"), image=FLAT),
        _used("PNG, grey of 2 bits", png((WIDTH, HEIGHT), 2, 0, packed_rows(IDS % 4, 2)), image=two_bit),
        _used("PNG, 1 bit", encoded(Image.fromarray(GREY > 127), "PNG"),
              image=np.repeat((GREY > 127)[..., None] * np.uint8(255), 3, axis=2)),
        _used("TIFF, grey whose 0 is white", tiff((WIDTH, HEIGHT), 8, (255 - GREY).tobytes(), photometric=0), ".tif",
              grey3),
        _used("PNG with bytes after its end", encoded(PICTURE, "PNG") + b"more" * 50),
        _used("JPEG with broken EXIF", _with_broken_exif(encoded(smooth, "JPEG", quality=95)), ".jpg",
              np.asarray(Image.open(io.BytesIO(encoded(smooth, "JPEG", quality=95)))), tolerance=0),
        _used("one row high", encoded(PICTURE[:1], "PNG"), image=PICTURE[:1]),
        _used("one pixel", encoded(PICTURE[:1, :1], "PNG"), image=PICTURE[:1, :1]),
    ]  # fmt: skip


def _with_broken_exif(jpeg: bytes) -> bytes:
    broken = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01" * 24
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(broken) + 2) + broken + jpeg[2:]


def _broken_pictures() -> list[FileCase]:
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    formats = (("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"), ("TIFF", ".tif"), ("BMP", ".bmp"))
    whole = {kind: encoded(noise, kind) for kind, _ in formats}
    cut = [
        _bad(f"{kind} truncated", "truncated or corrupt", whole[kind][: int(0.6 * len(whole[kind]))], suffix)
        for kind, suffix in formats
    ]
    flipped = bytearray(whole["PNG"])
    flipped[len(flipped) // 2] ^= 0x55
    half = len(whole["JPEG"]) // 2
    other = Image.fromarray(noise).rotate(90)
    return [
        *cut,
        _bad("PNG cut in its header", "", whole["PNG"][:20]),
        _bad("JPEG whose second half is zeros", "no end", whole["JPEG"][:half] + bytes(half), ".jpg"),
        _bad("PNG with a flipped byte", "truncated or corrupt", bytes(flipped)),
        _bad("zero bytes", "empty file (0 bytes)", b""),
        _bad("text called .png", "not a picture", b"<html>404 not found</html>"),
        _bad("zeros called .jpg", "not a picture", bytes(500), ".jpg"),
        _bad("GIF called .png", "not a picture in a known format", encoded(noise, "GIF")),
        _bad("EPS called .png (a program)", "not a picture in a known format", encoded(noise, "EPS")),
        _bad("PDF called .png", "not a picture in a known format", b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n"),
        _bad("SVG with a script called .png", "not a picture in a known format", b"<svg><script>x()</script></svg>"),
        _bad("PNG of no width", "", png((0, 0), 8, 2, b"")),
        _bad("PNG, animated", "animated or multi-page", encoded(noise, "PNG", save_all=True, append_images=[other])),
        _bad("WebP, animated", "animated or multi-page",
             encoded(noise, "WEBP", save_all=True, append_images=[other]), ".webp"),
        _bad("TIFF of two pages", "animated or multi-page",
             encoded(noise, "TIFF", save_all=True, append_images=[other]), ".tif"),
        _bad("PNG that claims 40,000 × 40,000 pixels", "decompression bomb", png((40_000, 40_000), 8, 2, b"\0" * 999)),
        _bad("decompression bomb: 108 million pixels in 13 kB", "decompression bomb",
             png((12_000, 9_000), 1, 0, (b"\0" + bytes(1500)) * 9_000)),
        _bad("PNG whose comment unpacks to 4 MB", "truncated or corrupt",
             png((4, 4), 8, 0, (b"\0" + bytes(4)) * 4,
                 extra=_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(4 << 20))))),
    ]  # fmt: skip


def _deep_pictures() -> list[FileCase]:
    size, deep = (WIDTH, HEIGHT), GREY.astype(np.uint16) << 8 | 77
    grey3 = np.repeat(GREY[..., None], 3, axis=2)
    colour = b"".join(b"\0" + row.tobytes() for row in (PICTURE.astype(">u2") << 8 | 77).astype(">u2"))
    dim = b"".join(b"\0" + row.tobytes() for row in (PICTURE.astype(">u2") << 4).astype(">u2"))
    floats = PICTURE[..., 0].astype(np.float32) / 255
    holes = np.where(GREY > 127, np.nan, floats).astype(np.float32)
    return [
        _used("PNG, grey of 16 bits", encoded(Image.fromarray(deep), "PNG"), image=grey3),
        _used("PNG, colour of 16 bits", png(size, 16, 2, colour)),
        _used("TIFF, grey of 16 bits", tiff(size, 16, deep.astype("<u2").tobytes()), ".tif", grey3),
        _used("TIFF, grey of 12 bits", tiff(size, 12, _twelve_bits(GREY)), ".tif", grey3),
        _bad("PNG of 16 bits that holds 12, grey", "not scaled up", encoded(Image.fromarray(deep >> 4), "PNG")),
        _bad("PNG of 16 bits that holds 12, colour", "not scaled up", png(size, 16, 2, dim)),
        _bad("TIFF, 16 bits whose 0 is white", "whose 0 is white",
             tiff(size, 16, deep.astype("<u2").tobytes(), photometric=0), ".tif"),
        _bad("TIFF, signed 16 bits", "signed 16-bit pixels",
             tiff(size, 16, (deep >> 1).astype("<i2").tobytes(), sample_format=2), ".tif"),
        _bad("TIFF, 32-bit integers", "32-bit pixels", tiff(size, 32, GREY.astype("<u4").tobytes()), ".tif"),
        _bad("TIFF, floats", "floating-point", tiff(size, 32, floats.tobytes(), sample_format=3), ".tif"),
        _bad("TIFF, floats with NaN", "floating-point", tiff(size, 32, holes.tobytes(), sample_format=3), ".tif"),
        _bad("TIFF, floats of 64 bits", "not a picture",
             tiff(size, 64, floats.astype("<f8").tobytes(), sample_format=3),
             ".tif"),
    ]  # fmt: skip


def _twelve_bits(values: NDArray[np.uint8]) -> bytes:
    """Rows of 12-bit values, two in three bytes, each the given byte and its high half again."""
    wide = values.astype(np.uint32) << 4 | values >> 4
    first, second = wide[:, 0::2], wide[:, 1::2]
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 2).astype(np.uint8).tobytes()


def _turned() -> list[FileCase]:
    square, quarter = PICTURE[:, :HEIGHT], np.rot90(PICTURE, -1)
    ids = encoded(IDS, "PNG")
    upright_ids = np.ascontiguousarray(np.rot90(IDS, -1))
    square_ids = encoded(IDS[:, :HEIGHT], "PNG")
    return [
        _used("EXIF: quarter turn, no mask", encoded(PICTURE, "PNG", exif=turned(6)), image=quarter),
        _used("EXIF: half turn, no mask", encoded(PICTURE, "PNG", exif=turned(3)), image=PICTURE[::-1, ::-1]),
        _used("EXIF: mirrored, no mask", encoded(PICTURE, "TIFF", exif=turned(2)), ".tif", PICTURE[:, ::-1]),
        _used("EXIF: quarter turn, mask drawn upright", encoded(PICTURE, "PNG", exif=turned(6)), image=quarter,
              mask_content=encoded(upright_ids, "PNG"), mask=upright_ids),
        _bad("EXIF: quarter turn, mask of the stored size", "both need one size",
             encoded(PICTURE, "PNG", exif=turned(8)), mask_content=ids),
        _bad("EXIF: quarter turn of a square, with a mask", "drawn before or after",
             encoded(square, "PNG", exif=turned(6)), mask_content=square_ids),
        _bad("EXIF: half turn, with a mask", "drawn before or after", encoded(PICTURE, "PNG", exif=turned(3)),
             mask_content=ids),
        _bad("EXIF: mirrored, with a mask", "drawn before or after", encoded(PICTURE, "JPEG", exif=turned(2)), ".jpg",
             mask_content=ids),
        _bad("EXIF turns the mask", "a mask that EXIF turns", encoded(PICTURE, "PNG"),
             mask_content=encoded(IDS, "PNG", exif=turned(3))),
        _used("EXIF of an orientation that does not exist", encoded(PICTURE, "PNG", exif=turned(1)),
              mask_content=ids, mask=IDS),
    ]  # fmt: skip


def _masks() -> list[FileCase]:
    sound = encoded(PICTURE, "PNG")
    size = (WIDTH, HEIGHT)

    def good(title: str, content: bytes, mask: NDArray[np.uint8], suffix: str = ".png") -> FileCase:
        return _used(title, sound, mask_content=content, mask_suffix=suffix, mask=mask)

    def bad(title: str, phrase: str, content: bytes, suffix: str = ".png") -> FileCase:
        return _bad(title, phrase, sound, mask_content=content, mask_suffix=suffix)

    unknown = IDS.copy()
    unknown[0, :3] = 9
    deep = IDS.astype(np.uint16)
    far = deep.copy()
    far[0, 0] = 300
    coloured = Image.fromarray(IDS, "P")
    coloured.putpalette([sign for i in range(8) for sign in (i * 9, 0, 255 - i)])
    return [
        good("mask: 8-bit ids", encoded(IDS, "PNG"), IDS),
        good("mask: 16-bit ids", encoded(Image.fromarray(deep), "PNG"), IDS),
        good("mask: palette, its indices are the ids", encoded(coloured, "PNG"), IDS),
        good("mask: 1 bit", encoded(Image.fromarray(IDS > 3), "PNG"), (IDS > 3).astype(np.uint8)),
        good("mask: 2 bits", png(size, 2, 0, packed_rows(IDS % 4, 2)), IDS % 4),
        good("mask: 4 bits", png(size, 4, 0, packed_rows(IDS, 4)), IDS),
        good("mask: ids with alpha", encoded(np.stack([IDS, GREY], 2), "PNG"), IDS),
        good("mask: TIFF", encoded(IDS, "TIFF"), IDS, ".tif"),
        good("mask: BMP", encoded(IDS, "BMP"), IDS, ".bmp"),
        good("mask: one class", encoded(IDS * 0 + 5, "PNG"), IDS * 0 + 5),
        good("mask: all void", encoded(IDS * 0 + VOID, "PNG"), IDS * 0 + VOID),
        bad("mask of another size", "both need one size", encoded(IDS[:-1], "PNG")),
        bad("mask turned by a quarter", "both need one size", encoded(np.ascontiguousarray(IDS.T), "PNG")),
        bad("mask with an unknown id", "unknown label ids 9 (3 pixels)", encoded(unknown, "PNG")),
        bad("mask with a 16-bit id that no class has", "unknown label ids 300", encoded(Image.fromarray(far), "PNG")),
        bad("mask of colours where ids are expected", "a colour mask", encoded(PICTURE, "PNG")),
        bad("mask of floats", "floating-point", tiff(size, 32, IDS.astype("<f4").tobytes(), sample_format=3), ".tif"),
        bad("mask under JPEG", "lossy compression", encoded(IDS, "JPEG", quality=100), ".jpg"),
        bad("mask: JPEG called .png", "lossy compression", encoded(IDS, "JPEG", quality=100)),
        bad("mask under lossy WebP", "lossy compression", encoded(PICTURE, "WEBP"), ".webp"),
        bad("mask: TIFF under JPEG", "lossy compression", encoded(IDS, "TIFF", compression="jpeg"), ".tif"),
        bad("mask: TIFF whose 0 is white", "whose 0 is white", tiff(size, 8, IDS.tobytes(), photometric=0), ".tif"),
        bad("mask truncated", "truncated or corrupt", encoded(GREY, "PNG")[:300]),
        bad("mask of zero bytes", "empty file", b""),
        bad("mask of two pages", "animated or multi-page",
            encoded(IDS, "TIFF", save_all=True, append_images=[Image.fromarray(IDS)]), ".tif"),
    ]  # fmt: skip


NAMES = {
    "spaces": " two  spaces ",
    "quotes": 'it\'s "quoted" `here`',
    "a newline": "line\nbreak",
    "a tab and an escape sequence": "tab\there \x1b[31mred",
    "an emoji": "street 🚗 at 🌙",
    "<script>": "<script>alert(1);<&script>",
    "markup": '"><img src=x onerror=alert(1)>',
    "a backslash": "back\\slash\\..\\x",
    "a subfolder": "deep/er/picture",
    "two dots": "up..down",
    "a leading dash": "-rf",
    "shell": "$(touch pwned); `id` | cat & %s %n",
    "SQL": "'; DROP TABLE manifest; --",
    "a formula": "=HYPERLINK(1)",
    "a glob": "[a-z]*?{b,c}",
    "a comma and a semicolon": "a,b;c",
    "template braces": "{{ config }} {% raw %}",
    "Chinese": "街景",
    "right-to-left marks": "a\u202egnp.b",
    "225 bytes": "n" * 225,
}


def _names() -> list[FileCase]:
    ids = encoded(IDS, "PNG")
    plain = [
        _used(f"name with {title}", encoded(PICTURE, "PNG"), stem=stem, mask_content=ids, mask=IDS)
        for title, stem in NAMES.items()
    ]
    composed, parted = "caf\u00e9", "cafe\u0301"
    accents = _used("name whose accent is composed, the mask's in two parts", encoded(PICTURE, "PNG"), stem=composed,
                    mask_stem=parted, mask_content=ids, mask=IDS)  # fmt: skip
    return [*plain, accents]


def _no_files() -> list[FileCase]:
    def aside(title: str, make: Callable[[Path], Any], suffix: str = ".png", stem: str = "") -> FileCase:
        return FileCase(title, "left aside", make, suffix, stem=stem)

    sound = encoded(PICTURE, "PNG")
    return [
        aside("a link to nowhere", lambda path: path.symlink_to("nowhere.png")),
        aside("a link to itself", lambda path: path.symlink_to(path.name)),
        aside("a folder called .png", lambda path: path.mkdir()),
        aside("a circle of folders", lambda path: path.symlink_to(path.parent, target_is_directory=True), ""),
        aside("a named pipe", os.mkfifo),
        aside("a hidden picture", lambda path: path.write_bytes(sound), stem=".hidden"),
        aside("a suffix that is no picture's", lambda path: path.write_bytes(sound), ".gif"),
    ]


@dataclass(frozen=True)
class TextCase:
    """A config, or a file of side information, that is refused (`phrase` is part of the message) or read."""

    title: str
    text: str | bytes
    phrase: str
    suffix: str = ".yaml"
    values: dict[str, Any] | None = field(default=None)


BASE = """classes: [road, sky]
source: {name: day, reader: folder, root: day}
targets: [{name: dusk, reader: folder, root: dusk}]
"""


def _target(extra: str) -> str:
    return BASE.replace("root: dusk}", f"root: dusk, {extra}}}")


def config_cases() -> list[TextCase]:
    """Configs that are refused with one line."""
    laughs = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
    )
    texts = [
        ("empty", "", "expected a mapping"),
        ("a list", "- a\n- b\n", "expected a mapping"),
        ("a text", "just text", "expected a mapping"),
        ("null", "~", "expected a mapping"),
        ("two documents", f"{BASE}---\n{BASE}", "not readable as YAML"),
        ("brackets that stay open", "source: [a\nb: {", "not readable as YAML"),
        ("a tab where blanks belong", "\tclasses: [a, b]", "not readable as YAML"),
        ("bytes that are no text", b"\xff\xfe\x00\x01", "is not UTF-8"),
        ("a control character", "classes: \x01", "not readable as YAML"),
        ("billions of values by aliases", f"{BASE}{laughs}", "with all aliases written out"),
        ("an alias within its own anchor", f"{BASE}model: &m {{training: *m}}\n", "within its own anchor"),
        ("200 brackets deep", f"{BASE}model: {'[' * 200}{']' * 200}", "levels deep"),
        ("2,000 brackets deep", "[" * 2_000, "levels deep"),
        ("2 MB", f"{BASE}# {'x' * (2 << 20)}", "more than 1,048,576 bytes"),
        ("a Python object", f"{BASE}store: !!python/object/apply:os.system ['touch pwned']", "not readable as YAML"),
        ("a tag of its own", f"{BASE}store: !secret x", "not readable as YAML"),
        ("an alias that nobody defined", f"{BASE}store: *nobody", "not readable as YAML"),
        ("a date of month 99", f"{BASE}store: 2020-99-99", "a value that can't be read"),
        ("a number of 5,000 digits", f"{BASE}statistics: {{seed: {'9' * 5000}}}", "a value that can't be read"),
        ("a key twice", f"{BASE}classes: [a, b]\n", "there twice"),
        ("a label id twice", _target("labels: {0: road, 1: sky, 0: sky}"), "there twice"),
        ("a label id twice, once in hexadecimal", _target("labels: {10: road, 0xA: sky}"), "there twice"),
        ("one colour under two names", _target("labels: {'#ff00aa': road, '#FF00AA': sky}"), "the same in a mask"),
        ("-1 and 255 under two names", _target("labels: {-1: road, 255: sky}"), "the same in a mask"),
        ("yes as a label id", _target("labels: {yes: road}"), "truth values"),
        ("a label id of 70,000", _target("labels: {70000: road}"), "expected ids up to 65535"),
        ("a label id of 1.5", _target("labels: {1.5: road}"), "targets.0.labels"),
        ("labels that are a list", _target("labels: [road, sky]"), "targets.0.labels"),
        ("an unknown class in labels", _target("labels: {0: rode}"), "did you mean 'road'"),
        ("no class in labels", _target("labels: {}"), "got none"),
        ("an unknown key", BASE + "sorce: 1\n", "did you mean 'source'"),
        ("one class", BASE.replace("[road, sky]", "[road]"), "2 to 254 distinct"),
        ("a class twice", BASE.replace("[road, sky]", "[road, road]"), "2 to 254 distinct"),
        ("300 classes", BASE.replace("[road, sky]", str([f"c{i}" for i in range(300)])), "2 to 254 distinct"),
        ("classes that are numbers", BASE.replace("[road, sky]", "[1, 2]"), "a list of class names"),
        ("mean of NaN", f"{BASE}model: {{mean: [.nan, 0, 0]}}", "model.mean.0"),
        ("deviation without end", f"{BASE}model: {{std: [.inf, 1, 1]}}", "model.std.0"),
        ("a threshold of NaN", f"{BASE}alerts: {{loss_gap: .nan}}", "alerts.loss_gap"),
        ("an input of a billion pixels a side", f"{BASE}model: {{input_size: [1000000000, 64]}}", "model.input_size.0"),
        ("an input of negative size", f"{BASE}model: {{input_size: [-64, 64]}}", "model.input_size.0"),
        ("no targets", BASE.replace("[{name: dusk, reader: folder, root: dusk}]", "[]"), "targets"),
        ("two targets of one name", _target("limit: 1}, {name: dusk, reader: folder, root: day"), "distinct names"),
        ("a target called source", BASE.replace("name: dusk", "name: source"), "can't be named 'source'"),
        ("a name with path separators", BASE.replace("name: dusk", "name: ../../etc"), "targets.0.name"),
        ("a name with a newline", BASE.replace("name: dusk", 'name: "dusk\\n"'), "targets.0.name"),
        ("a name of markup", BASE.replace("name: dusk", "name: <script>"), "targets.0.name"),
        ("a folder that is not there", BASE.replace("root: dusk", "root: nowhere"), "no such folder"),
        ("a folder of 5,000 letters", BASE.replace("root: dusk", f"root: {'d' * 5000}"), "no such folder"),
        ("a folder with a null byte", BASE.replace("root: dusk", 'root: "du\\0sk"'), "no such folder"),
        ("a store with a null byte", f'{BASE}store: "a\\0b"', "store"),
        ("a store without a name", f"{BASE}store: ''", "store"),
        ("a checkpoint that is a folder", f"{BASE}model: {{checkpoint: day}}", "no such file"),
        ("metadata that is not there", _target("metadata: m.csv"), "no such file"),
        ("a pattern that is none", _target("group: '([a-z'"), "regular expression"),
        ("a pattern without a group", _target("group: '[a-z]+'"), "one capture group"),
        ("a limit of nothing", _target("limit: 0"), "targets.0.limit"),
        ("a factory that is a sentence", f"{BASE}model: {{factory: 'import os; os.system'}}", "model.factory"),
        ("an encoder that lies on a hub", f"{BASE}model: {{encoder: 'tu-hf-hub:some/body'}}", "model.encoder"),
        ("an alert address that is no list", f"{BASE}alerts: {{notify: 'slack://TOPSECRET/x'}}", "alerts.notify"),
    ]  # fmt: skip
    return [TextCase(title, text, phrase) for title, text, phrase in texts]


def side_cases() -> list[TextCase]:
    """Tables of side information: refused with the file's name, or read as these values of sample 'a'."""
    deep = '{"a": ' * 100 + "1" + "}" * 100
    texts: list[tuple[str, str, str | bytes, str, dict[str, Any] | None]] = [
        ("zero bytes", ".csv", "", "", {}),
        ("a header alone", ".csv", "sample_id,speed\n", "", {}),
        ("no key column", ".csv", "frame,speed\na,1\n", "a record without sample", None),
        ("more fields than the header", ".csv", "sample_id,speed\na,1,2\n", "more fields than the header", None),
        ("fewer fields than the header", ".csv", "sample_id,speed,rain\na,1\n", "", {"speed": 1.0}),
        ("a quote that stays open", ".csv", 'sample_id,speed\na,"1\n', "not readable as CSV", None),
        ("a byte order mark", ".csv", "\ufeffsample_id,speed\na,1\n", "", {"speed": 1.0}),
        ("bytes that are no text", ".csv", b"sample_id,speed\na,\xff\xfe\n", "not readable as CSV", None),
        ("a field of 200 kB", ".csv", f"sample_id,note\na,{'x' * 200_000}\n", "not readable as CSV", None),
        ("NaN and infinities", ".csv", "sample_id,x,y,z\na,nan,inf,-inf\n", "", {}),
        ("a sample twice", ".csv", "sample_id,x\na,1\na,2\n", "two records of sample 'a'", None),
        ("a name with markup", ".csv", "sample_id,x\na,<script>\n", "", {"x": "<script>"}),
        ("no JSON", ".json", "{", "not readable as JSON", None),
        ("JSON 100,000 brackets deep", ".json", "[" * 100_000, "nested too deeply", None),
        ("JSON 100 levels deep", ".json", f'{{"a": {deep}}}', "nested more than 32 levels", None),
        ("a number beyond all floats", ".json", f'{{"a": {{"x": 1{"0" * 400}, "y": 2}}}}', "", {"y": 2.0}),
        ("NaN in JSON", ".json", '{"a": {"x": NaN, "y": Infinity, "z": 1}}', "", {"z": 1.0}),
        ("half a pair of surrogates", ".json", '{"a": {"x": "\\ud800"}}', "", {"x": "\ud800"}),
        ("a number where records belong", ".json", "5", "expected a list of records", None),
        ("records that are numbers", ".json", "[1, 2]", "expected records", None),
        ("no Parquet", ".parquet", b"PAR1 not really", "not readable as Parquet", None),
        ("zero bytes", ".parquet", b"", "not readable as Parquet", None),
        ("another kind", ".xlsx", b"PK", "expected .csv, .parquet or .json", None),
    ]
    return [
        TextCase(f"{suffix}: {title}", text, phrase, suffix, values) for title, suffix, text, phrase, values in texts
    ]


@dataclass(frozen=True)
class SetCase:
    """A whole data set: `make` lays it out and returns what the config says about it besides.

    `phrase` is part of an error's message; `checks` are those of the manifest that fail; with neither it is sound.
    """

    title: str
    make: Callable[[Path], dict[str, Any]]
    phrase: str = ""
    checks: tuple[str, ...] = ()
    as_source: bool = False


def set_cases() -> list[SetCase]:
    """What can be wrong with a set of which every file may be sound."""
    return [
        SetCase("no folder images/", lambda _: {}, "no pictures; expected images/"),
        SetCase("an empty folder images/", _empty, "no pictures; expected images/"),
        SetCase("masks alone", lambda root: _laid_out(root, [], ["a", "b"]), "no pictures; expected images/"),
        SetCase("masks of other names", lambda root: _laid_out(root, ["a"], ["b"]), "none of 1 masks has the name"),
        SetCase("images that is a file", lambda root: (root / "images").write_bytes(b"") or {}, "no pictures"),
        SetCase("two pictures of one stem", _two_of_one_stem, "two files of one stem"),
        SetCase("a name that is no UTF-8", _no_utf8, "is not UTF-8"),
        SetCase("a pattern that matches no name", lambda root: _laid_out(root, ["a", "b"], group="^(x)"),
                "matches none of 2 names"),
        SetCase("a selection that keeps nothing", lambda root: _laid_out(root, ["a"], select={"names": "z*"}),
                "no sample has names [z*]"),
        SetCase("a source of one picture", lambda root: _laid_out(root, ["a"]), "can't be divided", as_source=True),
        SetCase("a source of one group", lambda root: _laid_out(root, ["d_1", "d_2"], group="^(d)_"),
                "can't be divided",
                as_source=True),
        SetCase("a target of one picture", lambda root: _laid_out(root, ["a"], ["a"])),
        SetCase("a target of one group", lambda root: _laid_out(root, ["d_1", "d_2"], ["d_1", "d_2"], group="^(d)_")),
        SetCase("a target of one class", lambda root: _laid_out(root, ["a", "b"], ["a", "b"], ids=IDS * 0 + 3)),
        SetCase("a target without masks", lambda root: _laid_out(root, ["a", "b"])),
        SetCase("a target whose masks are all void", lambda root: _laid_out(root, ["a", "b"], ["a", "b"],
                ids=IDS * 0 + VOID), checks=("labelled_classes",)),
        SetCase("a target of which nothing can be read", lambda root: _laid_out(root, ["a", "b"], content=b"x"),
                checks=("readable", "quarantine_share")),
        SetCase("pictures of 8 pixels a side", lambda root: _laid_out(root, ["a", "b"],
                content=encoded(PICTURE[:8, :8], "PNG")), checks=("sizes",)),
        SetCase("one picture twice, in reference and holdout", _twice, checks=("no_leak",), as_source=True),
    ]  # fmt: skip


def _laid_out(
    root: Path, images: list[str], masks: list[str] = [], *, content: bytes | None = None,  # noqa: B006
    ids: NDArray[np.uint8] = IDS, **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(images):
        (root / "images" / f"{name}.png").write_bytes(content or encoded(np.roll(PICTURE, number, axis=0), "PNG"))
    for name in masks:
        (root / "masks" / f"{name}.png").write_bytes(encoded(ids, "PNG"))
    return changes


def _empty(root: Path) -> dict[str, Any]:
    (root / "images").mkdir()
    return {}


def _two_of_one_stem(root: Path) -> dict[str, Any]:
    (root / "images").mkdir()
    for suffix, kind in ((".png", "PNG"), (".jpg", "JPEG")):
        (root / "images" / f"a{suffix}").write_bytes(encoded(PICTURE, kind))
    return {}


def _no_utf8(root: Path) -> dict[str, Any]:
    (root / "images").mkdir()
    (root / "images" / os.fsdecode(b"caf\xe9.png")).write_bytes(encoded(PICTURE, "PNG"))
    return {}


def _twice(root: Path) -> dict[str, Any]:
    _laid_out(root, ["a_1", "b_1"], content=encoded(PICTURE, "PNG"))
    return {"reference": {"names": "a_*"}, "holdout": {"names": "b_*"}}
