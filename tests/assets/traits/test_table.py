"""The traits table: every column of the catalogue is filled, from labels and, without them, from predictions."""

import numpy as np
import polars as pl
import pytest
import torch

from assets.inference.losses import encode_classes
from assets.traits.compression import measure_compression
from assets.traits.registry import all_traits
from assets.traits.table import TraitCatalogue, update_traits
from resources.engine import in_process
from resources.pictures import Batch, Picture, to_input
from resources.sample_store import SampleStore

CLASSES = ("road", "sky", "car", "pole")
SIZE = (48, 64)


@pytest.fixture
def street():
    """A drawn mask of all four classes, 96 × 128."""
    mask = np.full((96, 128), 1, dtype=np.uint8)
    mask[48:] = 0
    mask[50:80, 20:60] = 2
    mask[20:60, 100:104] = 3
    return mask


@pytest.fixture
def measure(tmp_path, street):
    """Measures a sample with the street's label and one without, of which the street may be predicted."""
    image = np.random.default_rng(0).integers(1, 255, (96, 128, 3), dtype=np.uint8)
    manifest = pl.DataFrame(
        {
            "sample_id": ["with", "without"], "image": ["with.png", "without.png"], "mask": ["mask.png", None],
            "image_hash": ["a", "b"], "mask_hash": ["c", ""], "labels_version": ["1", "1"], "part": ["target"] * 2,
            "quarantined": [False] * 2,
        }
    )  # fmt: skip

    def batches(paths):
        pictures = [
            Picture(each.sample_id, image, street if each.mask else None, to_input(image, SIZE)) for each in paths
        ]
        yield Batch(pictures, torch.stack([picture.reduced for picture in pictures]))

    def run(predictions):
        catalogue = TraitCatalogue(all_traits(CLASSES, []), {}, CLASSES)
        table = SampleStore(str(tmp_path)).table("kitti", "traits")
        update_traits(
            manifest, predictions, in_process(batches), catalogue, table, input_size=SIZE, code="1", what="test"
        )
        return table.read().sort("sample_id"), catalogue, image

    return run


def test_every_trait_is_measured_from_label_or_prediction(measure, street):
    predicted = {"sample_id": ["without"], "fingerprint": ["f"], "prediction": [encode_classes(street)]}
    rows, catalogue, image = measure(pl.DataFrame(predicted))
    assert rows["from_label"].to_list() == [True, False]
    assert list(rows.columns)[-len(catalogue.traits) :] == list(catalogue.traits)
    for name in catalogue.traits:
        labelled, other = rows[name]
        assert np.isfinite(labelled), name
        assert other == pytest.approx(labelled, rel=1e-5), name  # places in a batch round differently
    for name, value in measure_compression(image).items():
        assert rows[name][0] == value  # of the original size, not the model's input


def test_without_label_and_prediction_pictures_have_no_regions(measure):
    rows, catalogue, _ = measure(None)
    of_mask = [name for name, trait in catalogue.traits.items() if trait.kind == "layout"]
    missing = {name for name in of_mask if np.isnan(rows[name][1])}
    assert missing == {*of_mask} - {"labelled", "count_car", "count_pole"}
    others = rows.select(name for name in catalogue.traits if name not in of_mask)
    assert np.isfinite(others.to_numpy()).all()
