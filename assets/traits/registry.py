"""The catalogue of traits: their names, families and the words that users read; and traits of the user's own.

Belongs here: what a trait is called and means, and how users add theirs. Does not: measuring (measure.py).
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from assets.traits.layout import is_countable, slug
from assets.traits.regional import CARS, class_of, roadside_classes
from resources.errors import ConfigError

Kind = Literal["picture", "shape", "original", "layout", "metadata", "user"]
Family = Literal[
    "colour", "exposure", "contrast", "saturation", "sharpness", "noise", "compression", "haze", "vignette", "geometry",
    "content", "label_policy", "model_statistics", "metadata",
]  # fmt: skip

TraitFunction = Callable[[NDArray[np.uint8], NDArray[np.uint8] | None], float]
"""From a picture (height, width, 3) and its class indices (height, width) or None, both of the original size."""

Function = TypeVar("Function", bound=TraitFunction)


@dataclass(frozen=True)
class Trait:
    """One number per sample.

    `name` is a column's name; `label` a few words for tables and figures; `unit` is '' where the number has none;
    `statement` says in plain words what the number is and what a high one means. `kind` is where it comes from: the
    picture as the model sees it, the picture's original shape or pixels, the mask (alone or with the picture), side
    information, or a function of the user's.
    """

    name: str
    kind: Kind
    family: Family
    label: str
    unit: str
    statement: str


@dataclass(frozen=True)
class UserTrait:
    """A trait of the user's own and the function that measures it."""

    trait: Trait
    function: TraitFunction
    module: str


def picture_traits() -> list[Trait]:
    """Traits of the picture at the model's input size, in the order of `measure_pictures`."""
    return [Trait(name, "picture", family, label, unit, text) for name, family, label, unit, text in _PICTURE]


def shape_traits() -> list[Trait]:
    """Traits of the picture's original size, in the order of `measure_shape`."""
    return [
        Trait("aspect_ratio", "shape", "geometry", "aspect ratio", "width/height",
              "Width over height of the file; resizing to the model's input stretches pictures of another shape."),
        Trait("megapixels", "shape", "geometry", "resolution", "megapixels",
              "Pixels of the file in millions; higher means more detail before resizing."),
    ]  # fmt: skip


def original_traits() -> list[Trait]:
    """Traits of the picture's original pixels, in the order of `measure_compression`."""
    return [
        Trait("blockiness", "original", "compression", "blockiness", "ln ratio",
              "Steps across the borders of 8×8 blocks over steps within them, in the file's own pixels; 0 without "
              "blocks, higher the more JPEG's blocks show."),
        Trait("jpeg_quality", "original", "compression", "JPEG quality", "1..100",
              "The JPEG quality that the pixels tell of, whatever the file's format; low means strongly compressed, "
              "100 that no trace is found (resizing, cropping and noise wipe it out)."),
    ]  # fmt: skip


def layout_traits(class_names: Sequence[str]) -> list[Trait]:
    """Traits of the mask for these classes, in the order of `measure_layout`.

    Raises ConfigError for class names that can't be told apart in trait names.
    """
    _check_slugs(class_names)
    traits = [
        Trait("labelled", "layout", "label_policy", "labelled share", "share of pixels",
              "How much of the picture carries a class at all; the rest is ignored in loss and IoU.")
    ]  # fmt: skip
    for name in class_names:
        traits += _class_traits(name)
    traits.append(
        Trait("layout_entropy", "layout", "content", "clutter", "bits",
              "How mixed the classes are within the cells of an 8×8 grid; high means many small things side by side.")
    )  # fmt: skip
    return traits


def region_traits(class_names: Sequence[str]) -> list[Trait]:
    """Traits of picture and mask together, of the classes that there are, in the order of `measure_regions`."""
    traits = []
    if class_of(class_names, "road") is not None:
        traits += _road_traits()
    if (car := class_of(class_names, *CARS)) is not None:
        traits.append(
            Trait("nearest_car_size", "layout", "content", f"size of the nearest {class_names[car]}", "share of height",
                  f"Height of the {class_names[car]} whose lower border is lowest; high means close traffic.")
        )  # fmt: skip
    if roadside := roadside_classes(class_names):
        names = ", ".join(class_names[index] for index in roadside)
        traits.append(
            Trait("roadside_objects", "layout", "content", "roadside objects", "regions",
                  f"How many separate things stand by the road ({names}); those that touch count as one.")
        )  # fmt: skip
    if class_of(class_names, "sky") is not None:
        traits.append(
            Trait("sky_above_horizon", "layout", "content", "open sky", "share of pixels",
                  "How much of what lies above the road's top is sky; low means closed in by buildings or trees.")
        )  # fmt: skip
    return traits


def metadata_trait(key: str) -> Trait:
    """The trait of one numeric entry of a data set's side information."""
    statement = f"The value of '{key}' in the data set's own metadata."
    return Trait(f"metadata_{slug(key)}", "metadata", "metadata", key, "", statement)


def all_traits(class_names: Sequence[str], user_modules: Sequence[str]) -> dict[str, Trait]:
    """Every trait of a config by name, in the order of its columns.

    These are picture, shape, original pixels, layout, regions, then the user's. Raises ConfigError that names
    `traits.modules` (or `classes`) and what to do.
    """
    of_mask = [*layout_traits(class_names), *region_traits(class_names)]
    built_in = {trait.name: trait for trait in [*picture_traits(), *shape_traits(), *original_traits(), *of_mask]}
    user = load_user_traits(user_modules)
    for name, added in user.items():
        if name in built_in:
            raise _clash(name, added.module, "built-in trait of that name")
    return built_in | {name: added.trait for name, added in user.items()}


def register_trait(
    name: str, *, family: Family, unit: str = "", label: str = "", statement: str = ""
) -> Callable[[Function], Function]:
    """Make a function of a picture and its mask a trait; for modules that `traits.modules` names.

    The function takes the picture (uint8, height × width × 3) and its class indices (uint8, height × width; 255 is
    ignored) or None where the sample has no mask, both of the original size and read-only, and returns one number.
    Where it raises, or returns a number that is not finite, the sample's value is missing. `name` is lower-case
    letters, digits and '_'; `family` is what hypotheses are grouped by.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(
            f"traits.modules: trait name {name!r}: use lower-case letters, digits and '_', a letter first"
        )
    if family not in get_args(Family):
        known = ", ".join(get_args(Family))
        raise ConfigError(f"traits.modules: trait {name!r}: unknown family {family!r}; expected one of {known}")

    def register(function: Function) -> Function:
        trait = Trait(name, "user", family, label or name.replace("_", " "), unit, statement or _first_line(function))
        added = UserTrait(trait, function, function.__module__)
        earlier = _USER_TRAITS.get((added.module, name))
        if earlier is not None and _qualified(earlier.function) != _qualified(function):
            raise _clash(name, added.module, f"trait of that name by {_qualified(earlier.function)} in the same module")
        _USER_TRAITS[added.module, name] = added
        return function

    return register


def load_user_traits(modules: Sequence[str]) -> dict[str, UserTrait]:
    """Import the modules that `traits.modules` names and return the traits that they and their submodules register.

    Raises ConfigError for a module that can't be imported or registers nothing, and for names that clash.
    """
    found: dict[str, UserTrait] = {}
    for module in dict.fromkeys(modules):
        _import(module)
        added = [trait for (owner, _), trait in _USER_TRAITS.items() if f"{owner}.".startswith(f"{module}.")]
        if not added:
            raise ConfigError(
                f"traits.modules: {module!r} registers no trait; decorate a function (image, mask) -> float in it with "
                "@register_trait from assets.traits.registry, or name the module that does"
            )
        for user_trait in added:
            name = user_trait.trait.name
            if name in _FIXED_NAMES:
                raise _clash(name, user_trait.module, "built-in trait of that name")
            if name in found and found[name] is not user_trait:
                raise _clash(name, user_trait.module, f"trait of that name in {found[name].module!r}")
            found[name] = user_trait
    return found


def _import(module: str) -> None:
    if module not in sys.modules:
        # What a failed or forgotten import has left behind does not count.
        for key in [key for key in _USER_TRAITS if key[0] == module]:
            del _USER_TRAITS[key]
    try:
        importlib.import_module(module)
    except ConfigError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"traits.modules: can't import {module!r} ({reason}); expected a dotted module name that Python finds "
            "(installed, or its folder on PYTHONPATH)"
        ) from error


def _clash(name: str, module: str, other: str) -> ConfigError:
    return ConfigError(f"traits.modules: trait {name!r} of {module!r} clashes with the {other}; rename it")


def _qualified(function: TraitFunction) -> str:
    return getattr(function, "__qualname__", repr(function))


def _first_line(function: TraitFunction) -> str:
    lines = (function.__doc__ or "").strip().splitlines()
    return lines[0] if lines else "A trait of the user's own."


def _check_slugs(class_names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in class_names:
        key = slug(name)
        if not key:
            raise ConfigError(f"classes: {name!r} has no letter or digit to name its traits by; rename it")
        if key in seen:
            raise ConfigError(f"classes: {seen[key]!r} and {name!r} both name traits '{key}'; rename one")
        seen[key] = name


def _class_traits(name: str) -> list[Trait]:
    key = slug(name)
    traits = [
        Trait(f"share_{key}", "layout", "content", f"share of {name}", "share of labelled pixels",
              f"How much of the labelled picture is {name}.")
    ]  # fmt: skip
    if is_countable(name):
        traits += [
            Trait(f"count_{key}", "layout", "content", f"count of {name}", "regions",
                  f"How many separate regions of {name} there are; objects that touch count as one."),
            Trait(f"median_size_{key}", "layout", "content", f"median size of {name}", "share of picture, root",
                  f"How large a typical region of {name} is: root of its share of the picture; low means far away."),
            Trait(f"largest_size_{key}", "layout", "content", f"largest size of {name}", "share of picture, root",
                  f"How large the largest region of {name} is: root of its share of the picture."),
        ]  # fmt: skip
    if key == "sky":
        traits.append(
            Trait("sky_horizon", "layout", "geometry", "lower border of sky", "share of height",
                  "How far down the sky reaches, from 0 (top) to 1 (bottom); depends on pitch, lens and buildings.")
        )  # fmt: skip
    if key == "road":
        traits.append(
            Trait("road_horizon", "layout", "geometry", "top of road", "share of height",
                  "How far up the road reaches, from 0 (top) to 1 (bottom); depends on the camera's pitch and lens.")
        )  # fmt: skip
    return traits


def _road_traits() -> list[Trait]:
    tint = ("where the picture's tint moves and the road's does not, what is in view has changed, not the colours of "
            "light or camera.")  # fmt: skip
    return [
        Trait("road_brightness", "layout", "exposure", "brightness of the road", "0..1",
              "Mean grey value of the road alone; unlike the picture's, it moves with light and camera, not with how "
              "much sky or vegetation is in view."),
        Trait("road_saturation", "layout", "saturation", "saturation of the road", "0..1",
              "Mean distance between the road's strongest and weakest channel; low on grey asphalt: a tint of light or "
              "camera raises it, more vegetation in view does not."),
        Trait("road_tint_a", "layout", "colour", "green to red tint of the road", "a*",
              f"Mean tint of the road alone, negative greenish, positive reddish; {tint}"),
        Trait("road_tint_b", "layout", "colour", "blue to yellow tint of the road", "b*",
              f"Mean tint of the road alone, negative bluish, positive yellowish; {tint}"),
        Trait("road_sharpness", "layout", "sharpness", "sharpness of the road", "log10 variance",
              "Strength of the finest detail within the road; low means blurred, whatever else is in view; a rougher "
              "surface, markings and noise raise it."),
    ]  # fmt: skip


_PICTURE: tuple[tuple[str, Family, str, str, str], ...] = (
    ("mean_red", "colour", "mean red", "0..1", "Mean of the red channel."),
    ("mean_green", "colour", "mean green", "0..1", "Mean of the green channel."),
    ("mean_blue", "colour", "mean blue", "0..1", "Mean of the blue channel."),
    ("std_red", "colour", "deviation of red", "0..1", "How much the red channel varies over the picture."),
    ("std_green", "colour", "deviation of green", "0..1", "How much the green channel varies over the picture."),
    ("std_blue", "colour", "deviation of blue", "0..1", "How much the blue channel varies over the picture."),
    ("brightness", "exposure", "brightness", "0..1", "Mean grey value; high means a bright picture."),
    ("contrast", "contrast", "contrast", "0..1", "How much grey values vary; low means a flat picture."),
    ("gamma_estimate", "exposure", "gamma", "exponent",
     "The exponent that makes a mid-grey picture as dark as this one; 1 is mid-grey, high means dark midtones."),
    ("luma_p05", "exposure", "black level", "0..1", "The grey value that 5% of pixels do not exceed; high: no blacks."),
    ("luma_p95", "exposure", "white level", "0..1", "The grey value that 95% of pixels do not exceed; low: no whites."),
    ("clipped_dark", "exposure", "clipped shadows", "share of pixels", "How much of the picture is black."),
    ("clipped_bright", "exposure", "clipped highlights", "share of pixels", "How much of the picture is white."),
    ("saturation", "saturation", "saturation", "0..1",
     "Mean distance between the strongest and the weakest channel; 0 is grey, high means vivid colours."),
    ("lab_l_mean", "exposure", "mean lightness", "L*", "Mean lightness as the eye sees it, 0 (black) to 100 (white)."),
    ("lab_a_mean", "colour", "green to red tint", "a*", "Mean tint; negative greenish, positive reddish, 0 neutral."),
    ("lab_b_mean", "colour", "blue to yellow tint", "b*", "Mean tint; negative bluish, positive yellowish, 0 neutral."),
    ("lab_l_std", "contrast", "deviation of lightness", "L*", "How much lightness varies; low means a flat picture."),
    ("lab_a_std", "colour", "range of green to red", "a*", "How much the tint varies between green and red."),
    ("lab_b_std", "colour", "range of blue to yellow", "b*", "How much the tint varies between blue and yellow."),
    ("colour_cast", "colour", "colour cast", "a*b* distance", "How far the mean colour is from neutral grey."),
    ("sharpness", "sharpness", "sharpness", "log10 variance",
     "Strength of the finest detail (variance of the Laplacian); low means blurred, noise and contrast raise it."),
    ("noise_sigma", "noise", "noise", "0..1",
     "Estimated deviation of pixel noise; very fine texture that fills the picture counts, too."),
    ("edge_density", "sharpness", "edges", "share of pixels", "How many pixels lie on a strong edge."),
    ("gradient_ratio", "geometry", "vertical to horizontal detail", "ln ratio",
     "Vertical over horizontal change; falls when a picture is stretched upright, rises when it is squeezed."),
    ("spectral_slope", "sharpness", "slope of the spectrum", "log10 per log10",
     "How fast detail fades towards fine scales; about −2 to −3 for sharp scenes, lower means blurred."),
    ("spectral_low", "contrast", "coarse detail", "log10 power", "Strength of structures larger than 16 pixels."),
    ("spectral_mid", "sharpness", "medium detail", "log10 power", "Strength of structures of 4 to 16 pixels."),
    ("spectral_high", "sharpness", "fine detail", "log10 power", "Strength of structures of 2 to 4 pixels."),
    ("vignette", "vignette", "corners to centre", "ln ratio",
     "Brightness of the corners over that of the centre; negative means dark corners."),
    ("dark_channel", "haze", "dark channel", "0..1",
     "Mean of the darkest value around each pixel; clear scenes are near 0, haze and fog raise it."),
)  # fmt: skip

_FIXED_NAMES = frozenset(trait.name for trait in [*picture_traits(), *shape_traits(), *original_traits()])
_USER_TRAITS: dict[tuple[str, str], UserTrait] = {}
