"""The catalogue's texts and names, and traits that users add."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from assets.traits.registry import (
    Family,
    all_traits,
    layout_traits,
    load_user_traits,
    metadata_trait,
    original_traits,
    picture_traits,
    region_traits,
    register_trait,
    shape_traits,
)
from resources.config import CITYSCAPES19
from resources.errors import ConfigError

HEAD = "from assets.traits.registry import register_trait\n"
GREENNESS = HEAD + (
    "@register_trait('greenness', family='colour', unit='0..1', label='greenness')\n"
    "def greenness(image, mask):\n"
    "    '''How green it is.\n\n    More words.'''\n"
    "    return image[..., 1].mean() / 255\n"
)


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Write a module that can be imported under the name given, and is forgotten after the test."""
    monkeypatch.syspath_prepend(tmp_path)
    written = []

    def write(name, text):
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        written.append(name.split(".")[0])
        return name

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] in written]:
        del sys.modules[name]


def test_importing_the_modules_is_light():
    code = (
        "import sys, assets.traits.registry, assets.traits.measure, assets.traits.colour, assets.traits.texture, "
        "assets.traits.compression, assets.traits.regional; "
        "print([name for name in ('torch', 'scipy', 'skimage') if name in sys.modules])"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


def test_every_trait_has_a_distinct_name_and_words():
    of_mask = [*layout_traits(CITYSCAPES19), *region_traits(CITYSCAPES19)]
    traits = [*picture_traits(), *shape_traits(), *original_traits(), *of_mask, metadata_trait("Sun angle")]
    assert len({trait.name for trait in traits}) == len(traits)
    for trait in traits:
        assert trait.family in get_args(Family)
        assert trait.label
        assert trait.statement.endswith(".")
        assert trait.name.isidentifier()
    assert traits[-1].name == "metadata_sun_angle"


def test_all_traits_are_in_the_order_of_their_kinds(write_module):
    traits = all_traits(("road", "car"), [write_module("own_order", GREENNESS)])
    kinds = [trait.kind for trait in traits.values()]
    assert list(dict.fromkeys(kinds)) == ["picture", "shape", "original", "layout", "user"]
    of_mask = [trait.name for trait in traits.values() if trait.kind == "layout"]
    assert of_mask == [trait.name for made in (layout_traits, region_traits) for trait in made(("road", "car"))]
    assert list(traits)[-1] == "greenness"
    assert all(name == trait.name for name, trait in traits.items())


def test_a_module_of_the_users_own_is_loaded_twice_alike(write_module):
    module = write_module("own_loaded", GREENNESS)
    first, second = load_user_traits([module]), load_user_traits([module, module])
    assert first == second
    added = first["greenness"]
    assert (added.trait.kind, added.trait.unit, added.trait.statement) == ("user", "0..1", "How green it is.")
    assert added.module == module
    assert added.function(np.full((2, 2, 3), 51, dtype=np.uint8), None) == pytest.approx(0.2)


def test_a_package_brings_the_traits_of_its_modules(write_module):
    write_module("own_package.__init__", "import own_package.colours\n")
    write_module("own_package.colours", GREENNESS)
    write_module("own_package_of_another", GREENNESS.replace("greenness", "other"))
    assert list(load_user_traits(["own_package"])) == ["greenness"]


def test_only_the_modules_named_count(write_module):
    write_module("own_left_out", GREENNESS)
    load_user_traits(["own_left_out"])
    assert load_user_traits([]) == {}
    assert "greenness" not in all_traits(("road",), [])


def test_functions_made_in_a_loop_each_count(write_module):
    text = HEAD + (
        "for channel in range(3):\n"
        "    @register_trait(f'maximum_{channel}', family='exposure')\n"
        "    def maximum(image, mask, channel=channel):\n"
        "        return image[..., channel].max()\n"
    )
    traits = load_user_traits([write_module("own_loop", text)])
    assert list(traits) == ["maximum_0", "maximum_1", "maximum_2"]
    assert traits["maximum_0"].trait.label == "maximum 0"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (None, ["can't import 'own_bad'", "PYTHONPATH"]),
        ("import nothing_of_that_name\n", ["can't import 'own_bad'", "nothing_of_that_name"]),
        ("def broken(:\n", ["can't import 'own_bad'", "SyntaxError"]),
        ("x = 1\n", ["registers no trait", "@register_trait"]),
        (GREENNESS.replace("'greenness'", "'brightness'"), ["'brightness'", "built-in", "rename"]),
        (GREENNESS.replace("'greenness'", "'jpeg_quality'"), ["'jpeg_quality'", "built-in", "rename"]),
        (GREENNESS.replace("'greenness'", "'Green ness'"), ["'Green ness'", "lower-case"]),
        (GREENNESS.replace("'colour'", "'paint'"), ["unknown family 'paint'", "saturation"]),
        (GREENNESS + GREENNESS.replace("def greenness", "def again"), ["'greenness'", "clashes", "same module"]),
    ],
)
def test_what_is_wrong_with_a_module_is_said_in_one_line(write_module, text, parts):
    if text is not None:
        write_module("own_bad", text)
    with pytest.raises(ConfigError) as caught:
        load_user_traits(["own_bad"])
    message = str(caught.value)
    assert message.startswith("traits.modules: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_module_that_was_mended_loads(write_module):
    broken = GREENNESS.replace("def greenness", "def first") + "raise RuntimeError('half way')\n"
    module = write_module("own_mended", broken)
    with pytest.raises(ConfigError, match="half way"):
        load_user_traits([module])
    write_module("own_mended", GREENNESS + "# longer than before, so that no cached byte code is used\n")
    assert list(load_user_traits([module])) == ["greenness"]


def test_two_modules_with_one_name_clash(write_module):
    modules = [write_module("own_one", GREENNESS), write_module("own_two", GREENNESS)]
    with pytest.raises(ConfigError, match="'greenness' of 'own_two' clashes with the trait of that name in 'own_one'"):
        load_user_traits(modules)


def test_a_name_of_a_layout_trait_clashes_where_the_class_exists(write_module):
    module = write_module("own_layout", GREENNESS.replace("'greenness'", "'share_car'"))
    assert "share_car" in all_traits(("road", "sky"), [module])
    with pytest.raises(ConfigError, match=r"traits\.modules: trait 'share_car'"):
        all_traits(("road", "car"), [module])


def test_running_a_definition_again_replaces_it():
    def define(unit):
        @register_trait("own_redefined", family="noise", unit=unit)
        def measured(image, mask):
            return 0.0

        return measured

    define("a")
    define("b")
    assert load_user_traits([define.__module__])["own_redefined"].trait.unit == "b"


def test_region_traits_are_those_of_the_classes_that_there_are():
    assert region_traits(("building", "vegetation")) == []
    assert [trait.name for trait in region_traits(("Sky", "Traffic light"))] == [
        "roadside_objects",
        "sky_above_horizon",
    ]
    nearest, objects = region_traits(("vehicle", "cars", "street lamps", "pole"))
    assert nearest.name == "nearest_car_size"
    assert nearest.label == "size of the nearest cars"
    assert "(street lamps, pole)" in objects.statement


@pytest.mark.parametrize("names", [("traffic light", "Traffic-Light"), ("road", "???")])
def test_class_names_that_name_the_same_traits_are_refused(names):
    with pytest.raises(ConfigError, match=r"^classes: "):
        layout_traits(names)
