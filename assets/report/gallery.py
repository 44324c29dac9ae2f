"""Evidence gathered: points of the latent map, distributions of traits, the worst samples with their pictures.

Belongs here: reading tables and pictures into `Evidence`. Does not: drawing (`figures.py`, `page.py`), figures of the
document (`assemble.py`).
"""

from __future__ import annotations

import colorsys
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from assets.diagnosis.worst_samples import describe, standing_out
from assets.inference.label_quality import suspected_pixels
from assets.inference.latents import region_latents, vectors
from assets.inference.losses import at_label_pixels, decode_classes, pixel_sums
from assets.inference.sensitivity import loss_sensitivity
from assets.report.document import NearReference, WorstRow
from assets.report.evidence import Neighbour, WorstSample
from assets.traits.registry import Trait
from resources.datasets.base import IGNORE
from resources.pictures import Batch, Picture, to_input_mask

if TYPE_CHECKING:
    from resources.model import SegmentationModel

WORST = 8
SHOWN_NEIGHBOURS = 3
SHOWN_SUSPECTS = 12
"""Samples of a side whose suspected labels are shown as pictures."""
OUTLINE = 2
"""Width in pixels of the line around suspected labels."""
OUTLINE_COLOUR = (255, 0, 255)
PICTURE_WIDTH = 480
MOST_POINTS = 5000
MOST_THUMBNAILS = 2000
MOST_REGIONS = 2000
"""Samples whose class regions are on a map: region vectors are many times as large as latents."""
FEWEST_REGIONS = 12
DIRECTIONS = 30
FLAT = 1e-9
"""Spread of latents of length 1 below which they are all the same."""
MOVED = {"normalised": "target", "imitated": "holdout"}
"""Roles of a trial that move a set's samples."""
SENSITIVE_CLASSES = 3
"""The costliest classes of a picture that have a map of sensitivity of their own."""
HOTTEST_LOSS = 4.0
"""Loss in nats at which the heat map is brightest."""

ALL_CLASSES = "all classes"
GLOW_AT = (0.0, 0.5, 1.0)
GLOW = ((40, 40, 160), (225, 60, 110), (255, 225, 60))
"""Colours of a map of sensitivity at its lowest, middle and brightest."""

KNOWN_COLOURS = {
    "road": "#804080", "sidewalk": "#f423e8", "building": "#464646", "wall": "#66669c", "fence": "#be9999",
    "pole": "#999999", "traffic light": "#faaa1e", "traffic sign": "#dcdc00", "sign": "#dcdc00",
    "vegetation": "#6b8e23", "terrain": "#98fb98", "sky": "#4682b4", "person": "#dc143c", "rider": "#ff0000",
    "car": "#00008e", "vehicle": "#00008e", "truck": "#000046", "bus": "#003c64", "train": "#005064",
    "motorcycle": "#0000e6", "bicycle": "#770b20", "cyclist": "#770b20",
}  # fmt: skip


Point = tuple[str, str]
"""A sample on the map: its set (reference, holdout, target) and its id."""


def palette(class_names: Sequence[str]) -> dict[str, str]:
    """A colour for every class: Cityscapes' for its names, else one drawn from the name."""
    return {name: KNOWN_COLOURS.get(name, _colour_of(name)) for name in class_names}


@dataclass(frozen=True)
class Plane:
    """The first principal directions of latents of length 1: `mean` (d,), `directions` (k, d), k up to 30."""

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]

    @classmethod
    def fit(cls, latents: NDArray[np.float32], seed: int, most: int = DIRECTIONS) -> Plane:
        """Of latents (n, d); without any spread there are no directions, and every place is 0."""
        from sklearn.decomposition import PCA

        unit = _unit(latents)
        few = min(most, *unit.shape)
        if few < 2 or np.ptp(unit, axis=0).max() < FLAT:  # noqa: PLR2004
            return cls(np.zeros(unit.shape[1]), np.zeros((0, unit.shape[1])))
        found = PCA(few, random_state=seed).fit(unit)
        return cls(found.mean_, found.components_)

    def reduced(self, latents: NDArray[np.float32]) -> NDArray[np.float64]:
        """Latents (n, d) along all directions, (n, k)."""
        return np.asarray((_unit(latents) - self.mean) @ self.directions.T)

    def places(self, latents: NDArray[np.float32]) -> NDArray[np.float64]:
        """Latents (n, d) on the map, (n, 2)."""
        if len(self.directions) < 2:  # noqa: PLR2004
            return np.zeros((len(latents), 2))
        return self.reduced(latents)[:, :2]


def shown_points(sets: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """The embedding rows of reference, holdout and target that the map shows: sample_id, set, group, latent.

    Larger sets are thinned alike to `MOST_POINTS` in all, by hash, so that the same samples stay.
    """
    share = min(1.0, MOST_POINTS / max(1, sum(rows.height for rows in sets.values())))
    kept = [_thinned(rows.with_columns(set=pl.lit(name)), share) for name, rows in sets.items()]
    return pl.concat([frame.select("sample_id", "set", "group", "latent") for frame in kept])


def latent_points(
    rows: pl.DataFrame, plane: Plane, losses: dict[Point, float], scores: dict[Point, float],
    thumbnails: dict[Point, bytes], seed: int,
) -> pl.DataFrame:  # fmt: skip
    """The latent map: the place of every row of `shown_points` by PCA and t-SNE, both of L2-normalised latents.

    Losses, scores and thumbnails go by set and id, since ids of two sets may be equal. Thumbnails are shown for the
    first `MOST_THUMBNAILS` of holdout and target.
    """
    latents = vectors(rows)
    pca, near = plane.places(latents), _neighbourly(plane, latents, seed)
    points: list[Point] = list(rows.select("set", "sample_id").iter_rows())
    order = sorted(range(len(points)), key=lambda i: (points[i][0] == "reference", _rank(points[i][1])))
    shown = set(order[:MOST_THUMBNAILS])
    return rows.select("sample_id", "set", "group").with_columns(
        loss=pl.Series([losses.get(point) for point in points], dtype=pl.Float64),
        gap_score=pl.Series([scores.get(point) for point in points], dtype=pl.Float64),
        pca_x=pl.Series(pca[:, 0]), pca_y=pl.Series(pca[:, 1]),
        map_x=pl.Series(near[:, 0]), map_y=pl.Series(near[:, 1]),
        thumbnail=pl.Series([thumbnails.get(point) if i in shown else None for i, point in enumerate(points)],
                            dtype=pl.Binary),
    )  # fmt: skip


def moved_points(rows: pl.DataFrame, plane: Plane, shown: pl.DataFrame) -> pl.DataFrame:
    """Where an experiment took the samples of its report halves: set, sample_id, pca_x, pca_y, loss after.

    `rows` (sample_id, role, latent, loss) of one experiment: target pictures normalised, holdout pictures made to look
    like the target. Those that the map does not show are left out, and so are experiments that change no latent.
    """
    moved = rows.filter(pl.col("role").is_in(list(MOVED)) & (pl.col("latent").list.len() > 0)).with_columns(
        set=pl.col("role").replace_strict(MOVED, return_dtype=pl.String)
    )
    moved = moved.join(shown.select("set", "sample_id"), on=["set", "sample_id"]).sort("set", "sample_id")
    places = plane.places(vectors(moved)) if moved.height else np.zeros((0, 2))
    return moved.select(
        "set", "sample_id", pca_x=pl.Series(places[:, 0]), pca_y=pl.Series(places[:, 1]), loss=pl.col("loss")
    )


def region_points(
    sets: dict[str, pl.DataFrame], shown: pl.DataFrame, class_names: Sequence[str], seed: int
) -> dict[str, pl.DataFrame]:
    """The map of every class' regions by their own principal directions: class -> set, sample_id, x, y.

    `sets`: embedding rows by set. Of the samples shown, `MOST_REGIONS` at most are placed; a class that fewer than
    `FEWEST_REGIONS` of them show has no map.
    """
    share = min(1.0, MOST_REGIONS / max(1, shown.height))
    kept = {name: _thinned(rows.join(shown.filter(set=name).select("sample_id"), on="sample_id"), share)
            for name, rows in sets.items()}  # fmt: skip
    found = {}
    for index, name in enumerate(class_names):
        parts = [(side, *region_latents(rows, index)) for side, rows in kept.items()]
        parts = [(side, ids, latents) for side, ids, latents in parts if ids]
        if sum(len(ids) for _, ids, _ in parts) < FEWEST_REGIONS:
            continue
        latents = np.concatenate([latents for _, _, latents in parts])
        places = Plane.fit(latents, seed, most=2).places(latents)
        found[name] = pl.DataFrame({
            "set": [side for side, ids, _ in parts for _ in ids],
            "sample_id": [one for _, ids, _ in parts for one in ids],
            "x": places[:, 0], "y": places[:, 1],
        })  # fmt: skip
    return found


def measures(shown: pl.DataFrame, source: pl.DataFrame, target: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Traits of the samples on the map: set, sample_id and a column a trait; null where one was not measured."""
    tables = {"reference": source, "holdout": source, "target": target}
    frames = [
        shown.filter(set=side).select("set", "sample_id").join(
            table.select("sample_id", *(name for name in names if name in table.columns)), on="sample_id", how="left")
        for side, table in tables.items()
    ]  # fmt: skip
    return pl.concat(frames, how="diagonal")


def trait_values(
    traits: Sequence[str], holdout: pl.DataFrame, target: pl.DataFrame, changed: dict[str, pl.DataFrame]
) -> pl.DataFrame:
    """Long table of trait values: trait, set (holdout | target | after:<hypothesis>), value."""
    frames = [
        frame.select("sample_id", *(name for name in traits if name in frame.columns))
        .unpivot(index="sample_id", variable_name="trait", value_name="value")
        .select("trait", pl.lit(label).alias("set"), "value")
        for label, frame in {"holdout": holdout, "target": target, **changed}.items()
        if not frame.is_empty()
    ]
    empty = pl.DataFrame(schema={"trait": pl.String, "set": pl.String, "value": pl.Float64})
    return pl.concat([empty, *frames]).filter(pl.col("value").is_not_nan())


def changed_traits(rows: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Traits of the normalised pictures of one experiment: sample_id and a column a trait."""
    measured = rows.filter((pl.col("role") == "normalised") & (pl.col("traits").list.len() == len(names)))
    columns = [pl.col("traits").list.get(i).alias(name) for i, name in enumerate(names)]
    return measured.select("sample_id", *columns) if names else pl.DataFrame()


def worst_samples(
    ranked: pl.DataFrame, batches: Iterator[Batch], model: SegmentationModel, predictions: dict[str, bytes],
    references: dict[str, bytes], traits: pl.DataFrame, catalogue: dict[str, Trait], colours: dict[str, str],
) -> list[WorstSample]:  # fmt: skip
    """The samples of `ranked` (sample_id, group, loss, gap_score, conformal_p, neighbours, distances) with pictures."""
    table = _colour_table(colours)
    scores = {row["sample_id"]: row for row in standing_out(traits, catalogue).iter_rows(named=True)}
    rows = {row["sample_id"]: row for row in ranked.iter_rows(named=True)}
    found = []
    for batch in batches:
        outputs = model(batch.reduced)
        for i, picture in enumerate(batch.pictures):
            row = rows[picture.sample_id]
            words = {name: value for name, value in scores[picture.sample_id].items() if name != "sample_id"}
            neighbours = zip(row["neighbours"][:SHOWN_NEIGHBOURS], row["distances"][:SHOWN_NEIGHBOURS], strict=True)
            size = (picture.image.shape[0], picture.image.shape[1])
            found.append(
                WorstSample(
                    sample_id=picture.sample_id, group=row["group"],
                    loss=row["loss"] if row["loss"] is not None else math.nan,
                    gap_score=row["gap_score"], conformal_p=row["conformal_p"],
                    picture=_jpeg(picture.image),
                    label=_png(table[picture.mask]) if picture.mask is not None else None,
                    prediction=_png(_resized(table[decode_classes(predictions[picture.sample_id])], size)),
                    loss_map=_loss_map(outputs.logits[i], picture.mask) if picture.mask is not None else None,
                    sensitivity=_sensitivity(model, picture, outputs.logits[i], list(colours)),
                    stands_out=describe(words, catalogue),
                    neighbours=[Neighbour(name, distance, references.get(name, b"")) for name, distance in neighbours],
                )
            )  # fmt: skip
    return sorted(found, key=lambda sample: -(sample.loss if not math.isnan(sample.loss) else sample.gap_score))


def worst_rows(samples: Sequence[WorstSample]) -> list[WorstRow]:
    """What the gallery tells of its samples, for `report.json`."""
    return [
        WorstRow(
            sample_id=sample.sample_id, group=sample.group, loss=sample.loss, gap_score=sample.gap_score,
            conformal_p=sample.conformal_p, stands_out=sample.stands_out,
            neighbours=[NearReference(sample_id=near.sample_id, distance=near.distance) for near in sample.neighbours],
            sensitive_to=[name for name in sample.sensitivity if name != ALL_CLASSES],
        )
        for sample in samples
    ]  # fmt: skip


def suspect_pictures(batches: Iterator[Batch], model: SegmentationModel) -> dict[str, bytes]:
    """Sample id -> JPEG with the pixels of suspected labels outlined; samples without a label are left out."""
    found = {}
    for batch in batches:
        outputs = model(batch.reduced)
        for logits, picture in zip(outputs.logits, batch.pictures, strict=True):
            if picture.mask is not None:
                mask = to_input_mask(picture.mask, (logits.shape[1], logits.shape[2]))
                found[picture.sample_id] = _jpeg(_outlined(picture.image, suspected_pixels(logits, mask)))
    return found


def _neighbourly(plane: Plane, latents: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """Places by t-SNE, (n, 2); those of the plane where there are too few, or no spread."""
    from sklearn.manifold import TSNE

    # Without any spread t-SNE divides by it and takes the process down.
    if len(latents) < 8 or len(plane.directions) < 2:  # noqa: PLR2004
        return plane.places(latents)
    perplexity = min(30.0, (len(latents) - 1) / 3)
    near = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(plane.reduced(latents))
    return np.asarray(near, dtype=np.float64)


def _unit(latents: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = latents.astype(np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12))


def _thinned(rows: pl.DataFrame, share: float) -> pl.DataFrame:
    keep = max(1, round(rows.height * share))
    return rows.filter(pl.Series([_rank(name) for name in rows["sample_id"]], dtype=pl.UInt64).rank("ordinal") <= keep)


def _rank(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")


def _colour_of(name: str) -> str:
    red, green, blue = colorsys.hls_to_rgb((_rank(name) % 360) / 360, 0.55, 0.6)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def _colour_table(colours: dict[str, str]) -> NDArray[np.uint8]:
    table = np.zeros((256, 3), np.uint8)
    for index, colour in enumerate(colours.values()):
        table[index] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    table[IGNORE] = 0
    return table


def _loss_map(logits: Any, mask: NDArray[np.uint8]) -> bytes:
    """Per-pixel loss at the label's pixels: black where it is 0 or ignored, through red to yellow at `HOTTEST_LOSS`."""
    import torch

    scores = at_label_pixels(logits, (mask.shape[0], mask.shape[1]))
    labels = torch.from_numpy(np.where(mask == IGNORE, 0, mask)).long().to(scores.device)
    losses = (scores.logsumexp(0) - scores.gather(0, labels[None])[0]).cpu().numpy()
    heat = np.clip(np.where(mask == IGNORE, 0, losses) / HOTTEST_LOSS, 0, 1)
    red, green = np.clip(heat * 2, 0, 1), np.clip(heat * 2 - 1, 0, 1)
    return _png((np.stack([red, green, heat * 0.2], -1) * 255).astype(np.uint8))


def without_sensitivity(model: SegmentationModel) -> str | None:
    """Why no sample can have a map of sensitivity; None where they can."""
    from torch import nn

    return None if isinstance(model.network, nn.Module) else "the model runs as exported and gives no gradients"


def _sensitivity(model: SegmentationModel, picture: Picture, logits: Any, class_names: list[str]) -> dict[str, bytes]:
    """JPEGs by whose loss they are of: all classes, then the costliest; none without a label or without gradients."""
    if picture.mask is None or without_sensitivity(model) is not None:
        return {}
    mask = to_input_mask(picture.mask, (logits.shape[1], logits.shape[2]))
    costs = pixel_sums(logits, mask).loss_sum
    costly = [int(index) for index in np.argsort(-costs, kind="stable")[:SENSITIVE_CLASSES] if costs[index] > 0]
    maps = loss_sensitivity(model, picture.reduced, mask, [None, *costly])
    names = [ALL_CLASSES, *(class_names[index] for index in costly)]
    return {name: _glowing(picture.image, heat) for name, heat in zip(names, maps, strict=True) if heat is not None}


def _glowing(image: NDArray[np.uint8], heat: NDArray[np.float32]) -> bytes:
    """The picture in grey, from dark blue to yellow where the map is bright, relative to its brightest place."""
    small = _small(image, Image.Resampling.LANCZOS)
    share = Image.fromarray(heat / max(float(heat.max()), 1e-12)).resize(small.size, Image.Resampling.BILINEAR)
    weight = np.clip(np.asarray(share), 0, 1)[..., None]
    grey = np.asarray(small.convert("L"), dtype=np.float64)[..., None] * np.ones(3)
    hot = np.stack([np.interp(weight[..., 0], GLOW_AT, levels) for levels in np.array(GLOW).T], -1)
    return _jpeg(np.round(grey * (1 - 0.75 * weight) * 0.8 + hot * 0.75 * weight).astype(np.uint8))


def _outlined(image: NDArray[np.uint8], marked: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The picture at the size in which it is shown, with a line around what is marked (h, w), at any size."""
    small = _small(image, Image.Resampling.LANCZOS)
    inside = Image.fromarray(marked).convert("L").resize(small.size, Image.Resampling.NEAREST)
    line = np.asarray(inside.filter(ImageFilter.MaxFilter(2 * OUTLINE + 1))) > np.asarray(inside)
    shown = np.array(small)
    shown[line] = OUTLINE_COLOUR
    return shown


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.NEAREST))


def _small(image: NDArray[np.uint8], resample: Image.Resampling) -> Image.Image:
    height, width = image.shape[:2]
    if width <= PICTURE_WIDTH:
        return Image.fromarray(image)
    return Image.fromarray(image).resize((PICTURE_WIDTH, round(height * PICTURE_WIDTH / width)), resample)


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    _small(image, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    _small(image, Image.Resampling.NEAREST).quantize(64).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
