"""All traits of a batch at once: names, batches against single pictures, real pictures, users' functions that fail."""

import math

import numpy as np
import pytest
import torch

from assets.traits.measure import PICTURE_TRAITS, measure_pictures, measure_shape, measure_user
from assets.traits.registry import Trait, UserTrait, picture_traits, shape_traits


def user_trait(name, function):
    return UserTrait(Trait(name, "user", "colour", name, "", "."), function, "tests")


def test_names_are_those_of_the_catalogue(scene):
    values = measure_pictures(scene)
    assert tuple(values) == PICTURE_TRAITS == tuple(trait.name for trait in picture_traits())
    assert all(value.shape == (1,) and value.dtype == np.float64 for value in values.values())
    assert list(measure_shape(3, 4)) == [trait.name for trait in shape_traits()]


def test_a_batch_gives_what_single_pictures_give(scene):
    other = torch.rand(scene.shape, generator=torch.Generator().manual_seed(1))
    batch = torch.cat([scene, other, scene.flip(3), torch.zeros_like(scene)])
    together = measure_pictures(batch)
    for index in range(len(batch)):
        alone = measure_pictures(batch[index : index + 1])
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][index], value[0], rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_batch_is_left_as_it_was(scene):
    before = scene.clone()
    measure_pictures(scene)
    assert torch.equal(scene, before)


def test_a_batch_of_other_layout_in_memory_gives_the_same(scene):
    strided = measure_pictures(scene.contiguous(memory_format=torch.channels_last))
    for name, value in measure_pictures(scene).items():
        np.testing.assert_allclose(strided[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_no_gradient_is_kept(scene):
    assert np.isfinite(measure_pictures(scene.clone().requires_grad_())["brightness"]).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_what_the_processor_gives(scene):
    on_gpu = measure_pictures(scene.cuda())
    for name, value in measure_pictures(scene).items():
        np.testing.assert_allclose(on_gpu[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_real_pictures_have_every_trait(real_batches):
    for batch in real_batches.values():
        values = measure_pictures(batch)
        assert all(np.isfinite(value).all() for value in values.values())
        assert (values["spectral_slope"] < -1).all()
        assert (values["noise_sigma"] < 0.05).all()


def test_causes_planted_on_real_pictures_show(real_batches):
    for batch in real_batches.values():
        plain = measure_pictures(batch)
        stretched = measure_pictures(torch.nn.functional.interpolate(batch, size=(396, 320), mode="bilinear"))
        blurred = measure_pictures(torch.nn.functional.avg_pool2d(batch, 3, 1))
        noise = 0.03 * torch.randn(batch.shape, generator=torch.Generator().manual_seed(0))
        noisy = measure_pictures((batch + noise).clamp(0, 1))
        hazy = measure_pictures(0.7 * batch + 0.25)
        assert (stretched["gradient_ratio"] < plain["gradient_ratio"] - 0.3).all()
        assert (blurred["sharpness"] < plain["sharpness"] - 0.5).all()
        assert (noisy["noise_sigma"] > plain["noise_sigma"] + 0.01).all()
        assert np.median(noisy["noise_sigma"]) == pytest.approx(0.03, rel=0.3)
        assert (hazy["dark_channel"] > plain["dark_channel"]).all()


def test_shape_is_width_over_height_and_megapixels():
    assert measure_shape(1024, 2048) == {"aspect_ratio": 2.0, "megapixels": pytest.approx(2.097152)}


def test_a_users_failure_is_a_missing_value_with_its_reason():
    def raises(image, mask):
        raise ValueError("no sun")

    traits = [
        user_trait("good", lambda image, _: np.float32(image.mean())),
        user_trait("bad", raises),
        user_trait("endless", lambda *_: math.inf),
        user_trait("wordy", lambda *_: "many"),
        user_trait("nothing", lambda *_: None),
        user_trait("masked", lambda _, mask: mask.mean()),
    ]
    values, failures = measure_user(traits, np.full((4, 5, 3), 7, dtype=np.uint8), None)
    assert list(values) == ["good", "bad", "endless", "wordy", "nothing", "masked"]
    assert values["good"] == 7
    assert all(math.isnan(values[name]) for name in failures)
    assert failures.keys() == {"bad", "endless", "wordy", "nothing", "masked"}
    assert failures["bad"] == "ValueError: no sun"
    assert "finite" in failures["endless"]


def test_a_users_function_can_not_change_the_picture():
    def writes(image, mask):
        image[:] = 0
        return 1.0

    image, mask = np.full((4, 5, 3), 7, dtype=np.uint8), np.zeros((4, 5), dtype=np.uint8)
    values, failures = measure_user([user_trait("writes", writes)], image, mask)
    assert math.isnan(values["writes"])
    assert "writes" in failures
    assert (image == 7).all()
    image[0] = 1  # the caller's own array stays writable
