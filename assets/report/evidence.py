"""What a report shows besides its figures: points, distributions, pictures; the contract between gathering and drawing.

Belongs here: plain containers. Does not: reading tables (`gallery.py` gathers), drawing (`figures.py` draws).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

POINT = {"set": pl.String, "sample_id": pl.String}


@dataclass(frozen=True)
class Neighbour:
    """A reference picture near a sample in the latent space; `picture` is a JPEG."""

    sample_id: str
    distance: float
    picture: bytes


@dataclass(frozen=True)
class WorstSample:
    """A target sample with high loss. `picture` is a JPEG; `label`, `prediction` and `loss_map` are PNGs.

    `sensitivity`: JPEGs of where the loss comes from, by whose it is: 'all classes' or a class.
    """

    sample_id: str
    group: str
    loss: float
    gap_score: float
    conformal_p: float
    picture: bytes
    label: bytes | None
    prediction: bytes
    loss_map: bytes | None
    sensitivity: dict[str, bytes] = field(default_factory=dict)
    stands_out: list[str] = field(default_factory=list)
    neighbours: list[Neighbour] = field(default_factory=list)


@dataclass(frozen=True)
class Evidence:
    """All that `report.html` draws.

    `latent`: sample_id, set (reference | holdout | target), group, loss (null without labels), gap_score, pca_x,
    pca_y, map_x, map_y (t-SNE), thumbnail (JPEG bytes or null).
    `measures`: set, sample_id and a column a trait, of the samples in `latent`.
    `regions`: class name -> set, sample_id, x, y: the latents of its regions by their own principal directions.
    `after`: experiment id -> set, sample_id, pca_x, pca_y, loss: its samples once it was done to them.
    `traits`: trait, set (holdout | target | after:<hypothesis>), value; one row a sample and trait.
    `palette`: class name -> '#RRGGBB'. `recipe_source`: the text of recipe.py, '' without a recipe.
    `suspects`: (holdout | target, sample_id) -> JPEG with the pixels of suspected labels outlined.
    `next_pictures`: thumbnails of the target samples to label next, by id.
    """

    latent: pl.DataFrame
    traits: pl.DataFrame
    worst: list[WorstSample]
    palette: dict[str, str]
    recipe_source: str
    suspects: dict[tuple[str, str], bytes] = field(default_factory=dict)
    next_pictures: dict[str, bytes] = field(default_factory=dict)
    measures: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=POINT))
    regions: dict[str, pl.DataFrame] = field(default_factory=dict)
    after: dict[str, pl.DataFrame] = field(default_factory=dict)
    without_sensitivity: str | None = None
    """Why no sample has a map of sensitivity."""
