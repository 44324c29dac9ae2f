"""Damage at random: whatever the bytes, an answer of the right form or one of our own errors, and never another."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from corpus import BASE, CLASSES, IDS, PICTURE, encoded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from resources.config import GapConfig, load_config
from resources.datasets.base import IGNORE, read_image
from resources.datasets.label_map import LabelMap
from resources.datasets.metadata import read_metadata
from resources.errors import ConfigError, DatasetError, UnreadableSample

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
fuzzed = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

SOUND = {
    kind: encoded(PICTURE, kind) for kind in ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
} | {
    "PNG of 16 bits": encoded(Image.fromarray(PICTURE[..., 0].astype(np.uint16) << 8), "PNG"),
    "PNG, palette": encoded(Image.fromarray(PICTURE).quantize(16), "PNG"),
    "TIFF, LZW": encoded(PICTURE, "TIFF", compression="tiff_lzw"),
    "JPEG, CMYK": encoded(Image.fromarray(PICTURE).convert("CMYK"), "JPEG"),
}  # fmt: skip

damage = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("cut"), st.floats(0, 1), st.just(b"")),
        st.tuples(st.just("insert"), st.floats(0, 1), st.binary(min_size=1, max_size=40)),
        st.tuples(st.just("drop"), st.floats(0, 1), st.binary(min_size=1, max_size=40)),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


def damaged(content: bytes, steps: list[tuple[str, float, bytes]]) -> bytes:
    """Bytes overwritten, cut off, put in or taken out, mostly near the beginning, where the headers are."""
    for what, where, extra in steps:
        place = int(where**3 * len(content))
        rest = {"flip": len(extra), "cut": len(content), "insert": 0, "drop": len(extra)}[what]
        content = content[:place] + (extra if what in ("flip", "insert") else b"") + content[place + rest :]
    return content


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        for data in ("day", "dusk"):
            (Path(name) / data).mkdir()
        yield Path(name)


@fuzzed
@given(kind=st.sampled_from(sorted(SOUND)), steps=damage)
def test_a_damaged_picture_is_read_or_quarantined(folder, kind, steps):
    path = folder / "a.png"
    path.write_bytes(damaged(SOUND[kind], steps))
    try:
        picture = read_image(path)
    except UnreadableSample as reason:
        assert str(reason).startswith("a.png: ")
        assert "\n" not in str(reason)
    else:
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3


@fuzzed
@given(steps=damage)
def test_a_damaged_png_is_never_read_as_another_picture(folder, steps):
    """PNG has checksums: what is read at all has the pixels that were written."""
    path = folder / "a.png"
    path.write_bytes(damaged(SOUND["PNG"], steps))
    try:
        picture = read_image(path)
    except UnreadableSample:
        return
    assert np.array_equal(picture, PICTURE)


@fuzzed
@given(kind=st.sampled_from(["PNG", "TIFF", "BMP"]), steps=damage)
def test_a_damaged_mask_holds_known_classes_or_is_quarantined(folder, kind, steps):
    path = folder / "mask.png"
    path.write_bytes(damaged(encoded(IDS, kind), steps))
    try:
        mask = LabelMap.from_table({**dict(enumerate(CLASSES)), 255: "void"}, CLASSES).read(path)
    except UnreadableSample as reason:
        assert str(reason).startswith("mask.png: ")
    else:
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {*range(len(CLASSES)), IGNORE}


@fuzzed
@given(
    pixels=arrays(st.sampled_from([np.uint8, np.uint16, np.int32]), (4, 5)),
    table=st.dictionaries(st.integers(-1, 65535), st.sampled_from([*CLASSES, "void", None]), min_size=1, max_size=8),
)
def test_a_table_of_ids_gives_its_classes_or_names_what_it_does_not_know(pixels, table):
    try:
        found = LabelMap.from_table(table, CLASSES).apply(pixels)
    except DatasetError as error:
        assert "none of the set's classes" in str(error)
    except UnreadableSample as error:
        codes = {own % 256 if own < 0 else own for own in table}
        assert any(int(value) not in codes for value in pixels.ravel())
        assert "unknown label ids" in str(error)
    else:
        named = {own % 256 if own < 0 else own: name for own, name in table.items()}
        expected = [
            CLASSES.index(name) if (name := named[int(value)]) in CLASSES else IGNORE for value in pixels.ravel()
        ]
        if len({own % 256 if own < 0 else own for own in table}) == len(table):
            assert found.ravel().tolist() == expected


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(-2, 300), inner,
                                                                 max_size=4),
    max_leaves=12,
)  # fmt: skip


def keys_of(section: object, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all keys of the schema, targets as their first."""
    found = []
    for name, about in getattr(section, "model_fields", {}).items():
        found.append((*prefix, name))
        found += keys_of(about.annotation, (*prefix, name))
    return found


KEYS = keys_of(GapConfig)


@fuzzed
@given(changes=st.lists(st.tuples(st.sampled_from(KEYS), plain), min_size=1, max_size=3))
def test_any_value_at_any_key_is_taken_or_refused_in_one_line(folder, changes):
    raw = yaml.safe_load(BASE)
    for keys, value in changes:
        section = raw
        for key in keys[:-1]:
            section = section.setdefault(key, {}) if isinstance(section, dict) else {}
        if isinstance(section, dict):
            section[keys[-1]] = value
    path = folder / "gap.yaml"
    path.write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    check_config(path)


@fuzzed
@given(steps=damage)
def test_a_damaged_config_is_taken_or_refused_in_one_line(folder, steps):
    path = folder / "gap.yaml"
    path.write_bytes(damaged(BASE.encode() * 2, steps))
    check_config(path)


def check_config(path):
    try:
        config = load_config(path)
    except ConfigError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)
    else:
        assert isinstance(config, GapConfig)


@fuzzed
@given(suffix=st.sampled_from([".csv", ".json", ".parquet"]), content=st.binary(max_size=200), steps=damage)
def test_a_damaged_table_is_read_or_refused_with_its_name(folder, suffix, content, steps):
    path = folder / f"side{suffix}"
    sound = {
        ".csv": b"sample_id,speed,note\na,1,rain\nb,2,\n",
        ".json": b'{"a": {"x": 1, "y": [2, "z"]}}',
        ".parquet": b"",
    }
    path.write_bytes(damaged(sound[suffix] + (content if suffix == ".parquet" else b""), steps))
    try:
        table = read_metadata(path)
    except DatasetError as error:
        assert str(path) in str(error)
    else:
        assert all(isinstance(value, float | str) for values in table.values() for value in values.values())
