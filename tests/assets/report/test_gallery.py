"""What the report shows: places on the map for sets of any size, trait values, pictures of the worst samples."""

from __future__ import annotations

import io
import re

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from assets.inference.latents import vectors
from assets.inference.losses import encode_classes
from assets.report import gallery
from assets.report.gallery import changed_traits, latent_points, palette, suspect_pictures, trait_values, worst_samples
from assets.traits.registry import all_traits
from resources.config import CAMVID11, CITYSCAPES19, ModelConfig
from resources.datasets.base import IGNORE
from resources.model import SegmentationModel
from resources.pictures import Batch, Picture, to_input


def embedded(latents: np.ndarray, prefix: str) -> pl.DataFrame:
    rows = [{"sample_id": f"{prefix}{i:03d}", "group": "g", "latent": row} for i, row in enumerate(latents.tolist())]
    return pl.DataFrame(rows, schema={"sample_id": pl.String, "group": pl.String, "latent": pl.List(pl.Float32)})


def sets_of(reference: int, holdout: int, target: int, width: int = 16) -> dict[str, pl.DataFrame]:
    rng = np.random.default_rng(0)
    centre = np.eye(width)[0] * 5
    return {
        "reference": embedded(rng.normal(0, 1, (reference, width)) + centre, "r"),
        "holdout": embedded(rng.normal(0, 1, (holdout, width)) + centre, "h"),
        "target": embedded(rng.normal(0, 1, (target, width)) - centre, "t"),
    }


def placed(sets, losses=None, scores=None, thumbnails=None) -> pl.DataFrame:
    rows = gallery.shown_points(sets)
    plane = gallery.Plane.fit(vectors(rows), seed=0)
    return latent_points(rows, plane, losses or {}, scores or {}, thumbnails or {}, seed=0)


@pytest.mark.parametrize("counts", [(1, 0, 0), (0, 0, 1), (1, 1, 1), (0, 2, 0), (3, 2, 3), (8, 6, 6), (30, 10, 20)])
def test_every_sample_has_a_finite_place_whatever_the_size(counts):
    found = placed(
        sets_of(*counts), {("target", "t000"): 1.5}, {("target", "t000"): 0.2}, {("target", "t000"): b"jpeg"}
    )
    assert found.height == sum(counts)
    assert found.columns == [
        "sample_id",
        "set",
        "group",
        "loss",
        "gap_score",
        "pca_x",
        "pca_y",
        "map_x",
        "map_y",
        "thumbnail",
    ]
    assert np.isfinite(found.select("pca_x", "pca_y", "map_x", "map_y").to_numpy()).all()
    assert dict(found.group_by("set").len().iter_rows()) == {
        name: count for name, count in zip(("reference", "holdout", "target"), counts, strict=True) if count
    }
    marked = found.filter(pl.col("sample_id") == "t000")
    if counts[2]:
        assert marked.select("loss", "gap_score", "thumbnail").row(0) == (1.5, 0.2, b"jpeg")
    assert found.filter(pl.col("sample_id") != "t000")["loss"].null_count() == found.height - marked.height


@pytest.mark.parametrize("count", [3, 20])
def test_equal_latents_lie_on_one_place(count):
    same = {"reference": embedded(np.ones((count, 8)), "r"), "target": embedded(np.ones((count, 8)), "t")}
    found = placed(same)
    assert found.height == 2 * count
    assert np.isfinite(found.select("pca_x", "pca_y", "map_x", "map_y").to_numpy()).all()
    assert found["pca_x"].to_numpy() == pytest.approx(0, abs=1e-6)


def test_sets_that_lie_apart_are_apart_on_both_maps():
    found = placed(sets_of(30, 20, 30))
    for x, y in (("pca_x", "pca_y"), ("map_x", "map_y")):
        places = {name: found.filter(set=name).select(x, y).to_numpy() for name in ("reference", "holdout", "target")}
        between = np.linalg.norm(places["target"].mean(0) - places["holdout"].mean(0))
        within = np.linalg.norm(places["reference"].mean(0) - places["holdout"].mean(0))
        assert between > 3 * within


def test_lengths_of_latents_do_not_count():
    sets = sets_of(12, 4, 8)
    longer = {**sets, "target": sets["target"].with_columns(pl.col("latent").list.eval(pl.element() * 7))}
    first, second = (placed(each) for each in (sets, longer))
    assert first["pca_x"].to_numpy() == pytest.approx(second["pca_x"].to_numpy(), abs=1e-4)


def test_large_sets_are_thinned_alike_and_always_to_the_same_samples(monkeypatch):
    monkeypatch.setattr(gallery, "MOST_POINTS", 30)
    monkeypatch.setattr(gallery, "MOST_THUMBNAILS", 12)
    sets = sets_of(60, 20, 40)
    thumbnails = {(part, name): b"x" for part, rows in sets.items() for name in rows["sample_id"]}
    found = placed(sets, thumbnails=thumbnails)
    assert dict(found.group_by("set").len().iter_rows()) == {"reference": 15, "holdout": 5, "target": 10}
    shown = found.filter(pl.col("thumbnail").is_not_null())
    assert shown.height == 12 and "reference" not in shown["set"], "holdout and target first"
    shuffled = {name: rows.sample(fraction=1, shuffle=True, seed=1) for name, rows in sets.items()}
    again = placed(shuffled, thumbnails=thumbnails)
    assert set(again["sample_id"]) == set(found["sample_id"])


@pytest.mark.parametrize("names", [CITYSCAPES19, CAMVID11, ("lane mark", "kerb", "x" * 50, "ünder")])
def test_every_class_has_a_colour_that_stays(names):
    colours = palette(names)
    assert list(colours) == list(names)
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours.values())
    assert palette(tuple(reversed(names))) == dict(reversed(colours.items()))
    assert palette(["road", "sky"]) == {"road": "#804080", "sky": "#4682b4"}
    assert len(set(palette(["kerb", "lane", "sign post", "hedge"]).values())) == 4


def test_an_experiments_samples_lie_by_the_directions_from_before():
    sets = sets_of(20, 10, 12)
    shown = gallery.shown_points(sets)
    plane = gallery.Plane.fit(vectors(shown), seed=0)
    before = placed(sets)
    rows = pl.DataFrame({
        "sample_id": ["t001", "h002", "t003", "t004", "unknown"],
        "role": ["normalised", "imitated", "sham", "normalised", "normalised"],
        "latent": [sets["target"]["latent"][1], sets["target"]["latent"][0], [1.0] * 16, [], [1.0] * 16],
        "loss": [0.1, 0.2, 0.3, 0.4, 0.5],
    }, schema_overrides={"latent": pl.List(pl.Float32)})  # fmt: skip
    found = gallery.moved_points(rows, plane, shown)
    assert found.select("set", "sample_id", "loss").rows() == [("holdout", "h002", 0.2), ("target", "t001", 0.1)]
    places = {name: before.filter(sample_id=name).select("pca_x", "pca_y").row(0) for name in ("t000", "t001")}
    assert found.select("pca_x", "pca_y").rows() == [
        pytest.approx(places["t000"], abs=1e-6), pytest.approx(places["t001"], abs=1e-6)]  # fmt: skip
    assert gallery.moved_points(rows.clear(), plane, shown).is_empty()


def test_regions_of_a_class_are_placed_by_their_own_directions(monkeypatch):
    random = np.random.default_rng(0)
    sets = sets_of(10, 10, 10)
    for side, rows in sets.items():
        road = random.normal(0, 1, (rows.height, 4))
        car = np.eye(4)[int(side == "target")] + random.normal(0, 0.1, (rows.height, 4))
        sets[side] = rows.with_columns(
            region_classes=pl.Series([[0, 2]] * rows.height), region_vectors=pl.Series(np.hstack([road, car]).tolist())
        )
    found = gallery.region_points(sets, gallery.shown_points(sets), ["road", "sky", "car"], seed=0)
    assert list(found) == ["road", "car"], "no region shows sky"
    assert found["road"].height == 30 and found["road"].columns == ["set", "sample_id", "x", "y"]
    apart = {name: abs(rows.filter(set="target")["x"].mean() - rows.filter(set="holdout")["x"].mean())
             for name, rows in found.items()}  # fmt: skip
    assert apart["car"] > 1.2 and apart["road"] < 0.7
    monkeypatch.setattr(gallery, "MOST_REGIONS", 15)
    assert gallery.region_points(sets, gallery.shown_points(sets), ["road"], seed=0)["road"].height == 15


def test_measures_go_by_set_and_sample():
    shown = gallery.shown_points(sets_of(2, 1, 2))
    source = pl.DataFrame({"sample_id": ["r000", "h000"], "bright": [0.1, 0.2]})
    target = pl.DataFrame({"sample_id": ["t001"], "bright": [0.5], "own": [1.0]})
    found = gallery.measures(shown, source, target, ["bright", "own", "unknown"])
    assert found.height == 5 and found.columns == ["set", "sample_id", "bright", "own"]
    assert found.filter(sample_id="t001").row(0) == ("target", "t001", 0.5, 1.0)
    assert found.filter(sample_id="t000")["bright"].to_list() == [None]


# --- traits ----------------------------------------------------------------------------------------------------------


def test_trait_values_are_a_row_a_sample_and_trait():
    holdout = pl.DataFrame({"sample_id": ["a", "b"], "mean_red": [0.1, 0.2], "share_sky": [0.3, float("nan")]})
    target = pl.DataFrame({"sample_id": ["c"], "mean_red": [0.4], "share_sky": [0.5]})
    after = pl.DataFrame({"sample_id": ["c"], "mean_red": [0.15]})
    found = trait_values(
        ["mean_red", "share_sky"], holdout, target, {"after:colour": after, "after:none": pl.DataFrame()}
    )
    assert set(found.iter_rows()) == {
        ("mean_red", "holdout", 0.1), ("mean_red", "holdout", 0.2), ("share_sky", "holdout", 0.3),
        ("mean_red", "target", 0.4), ("share_sky", "target", 0.5), ("mean_red", "after:colour", 0.15),
    }  # fmt: skip


def test_traits_that_no_table_has_give_no_rows():
    frame = pl.DataFrame({"sample_id": ["a"], "mean_red": [0.1]})
    assert trait_values([], frame, frame, {}).is_empty()
    found = trait_values(["mean_red"], frame, frame.drop("mean_red"), {})
    assert found.rows() == [("mean_red", "holdout", 0.1)]


def test_changed_traits_are_the_normalised_pictures():
    rows = pl.DataFrame({
        "sample_id": ["a", "b", "a", "c"], "role": ["normalised", "normalised", "sham", "normalised"],
        "traits": [[0.1, 1.0], [0.2, 2.0], [], []],
    }, schema_overrides={"traits": pl.List(pl.Float64)})  # fmt: skip
    found = changed_traits(rows, ["mean_red", "sharpness"])
    assert found.to_dict(as_series=False) == {"sample_id": ["a", "b"], "mean_red": [0.1, 0.2], "sharpness": [1.0, 2.0]}
    assert changed_traits(rows, []).is_empty()


# --- worst samples ---------------------------------------------------------------------------------------------------


class Constant(torch.nn.Module):
    """Always sure of class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Conv2d(3, 2, 1)
        torch.nn.init.zeros_(self.head.weight)
        self.head.bias.data = torch.tensor([50.0, 0.0])

    def forward(self, batch):
        return self.head(batch)


def scene(rng: np.random.Generator, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture of noise whose labels are class 1 on the left, 0 on the right and missing on top."""
    mask = np.zeros((60, width), np.uint8)
    mask[:, : width // 2] = 1
    mask[:10] = IGNORE
    return rng.integers(0, 256, (60, width, 3)).astype(np.uint8), mask


@pytest.fixture(scope="module")
def shown():
    """Three target samples, one of them without a label, as the report shows them."""
    config = ModelConfig(input_size=(32, 64), embedding_layer="head")
    model = SegmentationModel(Constant(), config, 2, "constant", "cpu")
    rng = np.random.default_rng(0)
    pictures, losses = [], {"a": 0.5, "b": 2.0, "c": None}
    for name in losses:
        image, mask = scene(rng, 1000 if name == "a" else 90)
        pictures.append(Picture(name, image, None if name == "c" else mask, to_input(image, (32, 64))))
    ranked = pl.DataFrame({
        "sample_id": list(losses), "group": ["g"] * 3, "loss": list(losses.values()), "gap_score": [0.1, 0.2, 0.3],
        "conformal_p": [0.5, 0.05, 0.01], "neighbours": [["r1", "r2", "r3", "r4"]] * 3,
        "distances": [[0.1, 0.2, 0.3, 0.4]] * 3,
    })  # fmt: skip
    traits = pl.DataFrame({"sample_id": ["a", "b", "c", "d", "e"], "mean_red": [0.5, 0.9, 0.51, 0.52, 0.49]})
    prediction = encode_classes(np.array([[0, 1], [1, 0]], np.uint8))
    return worst_samples(
        ranked, iter([Batch(pictures, torch.stack([picture.reduced for picture in pictures]))]), model,
        dict.fromkeys(losses, prediction), {"r1": b"one", "r2": b"two"}, traits, all_traits(["road", "sky"], []),
        {"road": "#804080", "sky": "#4682b4"},
    )  # fmt: skip


def pixels(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def test_the_worst_come_first_and_carry_their_figures(shown):
    assert [sample.sample_id for sample in shown] == ["b", "a", "c"]
    assert (shown[0].loss, shown[0].gap_score, shown[0].conformal_p, shown[0].group) == (2.0, 0.2, 0.05, "g")
    assert np.isnan(shown[2].loss)
    assert shown[0].stands_out == ["high mean red"]
    assert shown[1].stands_out == [] or shown[1].stands_out == ["low mean red"]


def test_neighbours_are_the_nearest_ones_with_their_pictures(shown):
    assert [(n.sample_id, n.distance, n.picture) for n in shown[0].neighbours] == [
        ("r1", 0.1, b"one"), ("r2", 0.2, b"two"), ("r3", 0.3, b"")]  # fmt: skip


def test_pictures_labels_and_predictions_are_shown_in_class_colours(shown):
    by_id = {sample.sample_id: sample for sample in shown}
    label = pixels(by_id["b"].label)
    assert label.shape == (60, 90, 3)
    assert label[30, 20].tolist() == [0x46, 0x82, 0xB4] and label[30, 70].tolist() == [0x80, 0x40, 0x80]
    assert label[5, 5].tolist() == [0, 0, 0], "what is not labelled is black"
    prediction = pixels(by_id["b"].prediction)
    assert prediction.shape == (60, 90, 3)
    assert prediction[10, 10].tolist() == [0x80, 0x40, 0x80] and prediction[10, 80].tolist() == [0x46, 0x82, 0xB4]
    assert pixels(by_id["a"].picture).shape == (29, 480, 3), "wide pictures are made smaller"
    assert pixels(by_id["b"].picture).shape == (60, 90, 3)


def test_the_loss_map_is_bright_where_the_model_is_wrong_and_black_where_nothing_counts(shown):
    heat = pixels(next(sample for sample in shown if sample.sample_id == "b").loss_map).astype(int).sum(2)
    assert heat[:10].max() == 0
    assert heat[20:, :40].min() > 400
    assert heat[20:, 50:].max() < 20


def test_without_a_label_there_is_no_label_and_no_loss_map(shown):
    bare = next(sample for sample in shown if sample.sample_id == "c")
    assert bare.label is None and bare.loss_map is None
    assert pixels(bare.prediction).shape == (60, 90, 3)


def test_sensitivity_is_of_all_classes_and_of_the_costliest(shown):
    by_id = {sample.sample_id: sample for sample in shown}
    assert list(by_id["b"].sensitivity) == ["all classes", "sky"], "class 0 costs nothing"
    assert by_id["c"].sensitivity == {}
    assert pixels(by_id["b"].sensitivity["sky"]).shape == (60, 90, 3)
    told = gallery.worst_rows(shown)
    assert [row.sample_id for row in told] == ["b", "a", "c"] and told[0].sensitive_to == ["sky"]
    assert told[0].neighbours[0].distance == 0.1 and told[2].loss is None


# --- suspected labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [90, 1000])
def test_a_line_runs_around_suspected_labels_and_nowhere_else(width):
    model = SegmentationModel(Constant(), ModelConfig(input_size=(32, 64), embedding_layer="head"), 2, "c", "cpu")
    image, mask = scene(np.random.default_rng(0), width)
    image[:] = 90
    labelled, bare = (Picture(name, image, own, to_input(image, (32, 64))) for name, own in (("a", mask), ("b", None)))
    batch = Batch([labelled, bare], torch.stack([labelled.reduced, bare.reduced]))
    found = suspect_pictures(iter([batch]), model)
    assert list(found) == ["a"], "without a label nothing is suspected"
    drawn = pixels(found["a"]).astype(int)
    magenta = (drawn[..., 0] - drawn[..., 1]) > 60
    height, across = magenta.shape
    middle, top = across // 2, height // 6
    assert magenta[top + 6 :, middle - 4 : middle + 6].any(1).all(), "the border of the wrong half"
    assert not magenta[:, middle + 10 :].any() and not magenta[top + 6 :, : middle - 10].any()
