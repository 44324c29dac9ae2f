"""The one pass: each sample is forwarded once for all that needs it, and a pass that was cut off goes on."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from torch.nn import functional

from assets.inference.forward import PassTables, embedding_fingerprints, run_pass, usable
from assets.inference.label_quality import label_quality
from assets.inference.latents import EMBEDDING_SCHEMA, vectors
from assets.inference.losses import EVALUATION_SCHEMA, decode_classes
from assets.ingestion.manifest import build_manifest, scan_files
from resources.config import Selection, load_config
from resources.datasets import open_reader
from resources.engine import in_process
from resources.model import SegmentationModel, build_network, load_weights, read_checkpoint
from resources.pictures import load_batches, to_input_mask
from resources.sample_store import SampleTable

SHARED = Path(__file__).parents[3] / ".." / "shared" / "data"


@pytest.fixture
def tables(tmp_path):
    return PassTables(*(SampleTable(str(tmp_path / "store" / name)) for name in ("embeddings", "evaluation")))


@contextmanager
def counted(model):
    """How many pictures each forward of the network takes."""
    sizes: list[int] = []
    hook = model.network.segmentation_head.register_forward_hook(lambda *call: sizes.append(len(call[2])))
    try:
        yield sizes
    finally:
        hook.remove()


def passed(model, scenes, tables, *, code="code", batches=None):
    """Run the pass; returns the changes and the sizes of its forwards."""
    with counted(model) as sizes:
        run = in_process(batches or scenes.batches(model))
        changes = run_pass(model, scenes.manifest(), run, tables, code=code, what="a pass")
    return changes, sizes


def test_one_forward_serves_both_tables(model, scenes, tables):
    changes, sizes = passed(model, scenes, tables)
    assert sizes == [2, 2, 1]
    assert changes["embeddings"].new == changes["evaluation"].new == ["a", "b", "c", "d", "e"]
    embeddings, evaluation = tables.embeddings.read(), tables.evaluation.read()
    assert dict(embeddings.schema) == EMBEDDING_SCHEMA
    assert dict(evaluation.schema) == EVALUATION_SCHEMA
    assert embeddings["sample_id"].to_list() == evaluation["sample_id"].to_list() == ["a", "b", "c", "d", "e"]
    assert evaluation["labelled"].to_list() == [True, True, True, True, False]
    assert passed(model, scenes, tables)[1] == []


def test_the_rows_are_those_of_each_picture_alone(model, scenes, tables):
    passed(model, scenes, tables)
    alone = PassTables(*(SampleTable(f"{table.url}_alone") for table in (tables.embeddings, tables.evaluation)))
    passed(model, scenes, alone, batches=scenes.batches(model, batch_size=1, workers=2))
    np.testing.assert_allclose(
        vectors(tables.embeddings.read()), vectors(alone.embeddings.read()), rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(
        tables.evaluation.read()["loss"].drop_nulls(), alone.evaluation.read()["loss"].drop_nulls(), rtol=1e-4
    )
    assert tables.evaluation.version() == alone.evaluation.version()


def test_loss_and_confusion_are_measured_at_the_label_s_own_pixels(model, scenes, tables):
    passed(model, scenes, tables)
    row = tables.evaluation.read().row(0, named=True)
    image, mask = (np.asarray(Image.open(scenes.root / folder / "a.png")) for folder in ("images", "masks"))
    picture = torch.tensor(image).permute(2, 0, 1)[None] / 255
    reduced = functional.interpolate(picture, size=(64, 96), mode="bilinear", antialias=True)
    logits = functional.interpolate(model(reduced).logits, size=mask.shape, mode="bilinear")
    expected = functional.cross_entropy(logits, torch.tensor(mask)[None].long(), ignore_index=255)
    assert row["loss"] == pytest.approx(float(expected), abs=1e-4)
    assert row["pixels"] == sum(row["confusion"]) == (mask != 255).sum()
    assert np.array_equal(decode_classes(row["prediction"]), model(reduced).logits[0].argmax(0).numpy())


def test_labels_are_judged_at_the_model_s_own_pixels(model, scenes, tables):
    passed(model, scenes, tables)
    rows = tables.evaluation.read()
    image, mask = (np.asarray(Image.open(scenes.root / folder / "a.png")) for folder in ("images", "masks"))
    picture = torch.tensor(image).permute(2, 0, 1)[None] / 255
    reduced = functional.interpolate(picture, size=(64, 96), mode="bilinear", antialias=True)
    expected = label_quality(model(reduced).logits[0], to_input_mask(mask, (64, 96)))
    assert rows["label_quality"][0] == pytest.approx(expected.score, rel=1e-4)
    assert rows["judged_pixels"][0].to_list() == expected.judged.tolist()
    unlabelled = rows.row(4, named=True)
    assert unlabelled["label_quality"] is None and unlabelled["suspect_pixels"] is None


def test_embeddings_alone_leave_the_evaluation_alone(model, scenes, tables):
    changes, sizes = passed(model, scenes, PassTables(tables.embeddings, None))
    assert list(changes) == ["embeddings"]
    assert sum(sizes) == 5
    assert tables.embeddings.exists
    assert not tables.evaluation.exists
    changes, sizes = passed(model, scenes, tables)  # the evaluation catches up
    assert (changes["embeddings"].stale, len(changes["evaluation"].stale), sum(sizes)) == ([], 5, 5)


def test_removed_samples_go_and_new_ones_come(model, scenes, tables):
    passed(model, scenes, tables)
    scenes.remove("b")
    scenes.add("f")
    changes, sizes = passed(model, scenes, tables)
    assert sizes == [1]
    for name, table in (("embeddings", tables.embeddings), ("evaluation", tables.evaluation)):
        assert (changes[name].new, changes[name].changed, changes[name].removed) == (["f"], [], ["b"])
        assert table.read(["fingerprint"])["sample_id"].to_list() == ["a", "c", "d", "e", "f"]


def test_another_mask_makes_its_evaluation_stale_and_nothing_else(model, scenes, tables):
    passed(model, scenes, tables)
    before, loss = tables.embeddings.version(), tables.evaluation.read()["loss"].to_list()
    Image.fromarray(np.ones((80, 120), np.uint8)).save(scenes.root / "masks" / "c.png")
    changes, sizes = passed(model, scenes, tables)
    assert sizes == [1]
    assert (changes["embeddings"].stale, changes["evaluation"].changed) == ([], ["c"])
    assert tables.embeddings.version() == before
    after = tables.evaluation.read()["loss"].to_list()
    assert [one != other for one, other in zip(loss, after, strict=True)] == [False, False, True, False, False]


def test_another_picture_makes_both_stale(model, scenes, tables):
    passed(model, scenes, tables)
    before = vectors(tables.embeddings.read())
    scenes.add("d", seed=7)
    changes, sizes = passed(model, scenes, tables)
    assert (changes["embeddings"].changed, changes["evaluation"].changed, sizes) == (["d"], ["d"], [1])
    moved = (vectors(tables.embeddings.read()) != before).any(1)
    assert moved.tolist() == [False, False, False, True, False]


def test_other_weights_and_other_code_make_all_stale(model, scenes, tables):
    passed(model, scenes, tables)
    other = SegmentationModel(model.network, model.config, model.class_count, "version 2", "cpu")
    assert sum(passed(other, scenes, tables)[1]) == 5
    assert sum(passed(other, scenes, tables)[1]) == 0
    assert sum(passed(other, scenes, tables, code="other")[1]) == 5


def test_a_pass_that_was_cut_off_goes_on_behind_its_last_batch(model, scenes, tables):
    whole = scenes.batches(model)

    def cut_off(samples):
        batches = whole(samples)
        yield next(batches)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        passed(model, scenes, tables, batches=cut_off)
    assert tables.embeddings.keys()["sample_id"].to_list() == ["a", "b"]
    assert tables.evaluation.keys()["sample_id"].to_list() == ["a", "b"]
    changes, sizes = passed(model, scenes, tables)
    assert sizes == [2, 1]
    assert changes["evaluation"].kept == 2
    assert tables.evaluation.read().height == tables.embeddings.read().height == 5


def test_quarantined_and_unused_samples_are_not_forwarded(model, scenes, tables):
    (scenes.root / "images" / "b.png").write_bytes(b"")
    manifest = scenes.manifest().with_columns(
        part=pl.when(pl.col("sample_id") == "c").then(pl.lit("unused")).otherwise("part")
    )
    assert usable(manifest)["sample_id"].to_list() == ["a", "d", "e"]
    with counted(model) as sizes:
        run_pass(model, manifest, in_process(scenes.batches(model)), tables, code="code", what="a pass")
    assert sum(sizes) == 3
    assert tables.embeddings.keys()["sample_id"].to_list() == ["a", "d", "e"]


def test_a_sample_that_became_unusable_goes(model, scenes, tables):
    passed(model, scenes, tables)
    (scenes.root / "images" / "b.png").write_bytes(b"")
    changes, sizes = passed(model, scenes, tables)
    assert (changes["embeddings"].removed, sizes) == (["b"], [])


def test_a_moved_folder_costs_no_forward(model, scenes, tables):
    passed(model, scenes, tables)
    manifest = scenes.manifest()
    moved = manifest.with_columns(image=pl.lit("elsewhere/") + pl.col("image"), group=pl.lit("another"))
    assert embedding_fingerprints(moved, "m", "c").equals(embedding_fingerprints(manifest, "m", "c"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real pictures are not at hand")
def test_real_losses_are_those_of_a_plain_loop(tmp_path):
    config = load_config(SHARED / "gap-camvid.yaml", store=str(tmp_path))
    holdout = config.targets[0].model_copy(update={"select": Selection(groups=["Seq05VD"]), "limit": 12})
    names, checkpoint = config.class_names, config.model.checkpoint
    network = build_network(config.model, len(names))
    load_weights(network, read_checkpoint(checkpoint), checkpoint, names)
    model = SegmentationModel(network, config.model, len(names), "real", "cpu")
    files, table, evaluation = (SampleTable(str(tmp_path / name)) for name in ("files", "manifest", "evaluation"))
    reader = open_reader(config, holdout)
    samples, _ = scan_files(reader, files)
    build_manifest(reader, samples, files.read(), config, holdout, table, code="code")
    batches = partial(load_batches, reader, input_size=model.input_size, batch_size=6, workers=2)
    run_pass(model, table.read(), in_process(batches), PassTables(None, evaluation), code="code", what="real pictures")
    found = dict(evaluation.read().select("sample_id", "loss").iter_rows())
    assert len(found) == 12

    classes = np.full(256, 255, np.uint8)
    for own, name in holdout.labels.items():
        classes[own] = names.index(name)
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.model.mean, config.model.std))
    for sample in samples:
        image, mask = np.array(Image.open(sample.image).convert("RGB")), classes[np.array(Image.open(sample.mask))]
        picture = torch.tensor(image).permute(2, 0, 1)[None].float() / 255
        picture = functional.interpolate(picture, size=(240, 320), mode="bilinear", antialias=True)
        with torch.no_grad():
            logits = network((picture - mean) / std)
        logits = functional.interpolate(logits, size=mask.shape, mode="bilinear", align_corners=False)
        expected = functional.cross_entropy(logits, torch.tensor(mask)[None].long(), ignore_index=255)
        assert found[sample.sample_id] == pytest.approx(float(expected), abs=1e-4)
    assert 0.15 < np.mean(list(found.values())) < 0.8  # the whole drive has 0.39


def test_streams_fill_the_tables_as_one_does(model, scenes, tables):
    threads = torch.get_num_threads()
    alone = PassTables(*(SampleTable(f"{table.url}_alone") for table in (tables.embeddings, tables.evaluation)))
    try:
        torch.set_num_threads(1)
        passed(model, scenes, alone)
        torch.set_num_threads(3)
        assert model.streams == 3
        _, sizes = passed(model, scenes, tables)
    finally:
        torch.set_num_threads(threads)
    assert sizes == [1, 1, 1, 1, 1]  # a batch is shared out, so that no more pictures are under way
    for one, other in ((tables.embeddings, alone.embeddings), (tables.evaluation, alone.evaluation)):
        found, expected = one.read(), other.read()
        assert found["sample_id"].to_list() == expected["sample_id"].to_list()
        assert one.version() == other.version()
    np.testing.assert_allclose(
        vectors(tables.embeddings.read()), vectors(alone.embeddings.read()), rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(
        tables.evaluation.read()["loss"].drop_nulls(), alone.evaluation.read()["loss"].drop_nulls(), rtol=1e-4
    )
