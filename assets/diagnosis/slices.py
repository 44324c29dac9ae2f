"""Slices: conjunctions of a few conditions on traits under which the target's loss is high.

Belongs here: mining them, the multiplicity control of the search, conditions that run against the traits table.
Does not: clusters of the worst samples (`worst_samples.py`), measuring traits, causes: a slice says where, not why.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Members = NDArray[np.bool_]

MOST_CONDITIONS = 3
MOST_TRAITS = 24
"""Traits that conditions are made of; all conjunctions of three of them are some ten thousand candidates."""
SAME_TRAIT = 0.9
"""Traits that rank the samples alike (|Spearman's ρ|) give one set of conditions, that of the first."""
FEWEST_SAMPLES = 6
LEAST_SHARE = 0.03
"""Three independent terciles hold 1 in 27 samples: 3.7%."""
FEWEST_UNITS = 3
MOST_OVERLAP = 0.6
"""Jaccard index above which a slice says nothing that a better one has not said."""
MOST_SLICES = 8
SIGNIFICANT_DIGITS = 4
BLOCK_VALUES = 2_000_000
"""Values of the largest temporary matrix."""
SUSPECT_SHARE = "suspect_share"
"""Share of a sample's labelled pixels whose label is suspected (`inference/label_quality.py`)."""


@dataclass(frozen=True)
class Condition:
    """One side of a trait's range, at its lower or upper tercile; a sample without the trait does not meet it."""

    trait: str
    label: str
    side: Literal["<=", ">="]
    threshold: float
    can_miss: bool
    """Whether some sample lacks the trait (NaN)."""

    def sql(self) -> str:
        """The condition as SQL over the traits table."""
        name = self.trait if self.trait.isidentifier() and self.trait.isascii() else f'"{self.trait}"'
        text = f"{name} {self.side} {self.threshold!r}"
        if self.can_miss and self.side == ">=":
            return f"{text} AND {name} <> CAST('NaN' AS DOUBLE)"  # to SQL engines NaN is the largest number
        return text

    def words(self) -> str:
        """The condition in words: 'low brightness'."""
        return f"{'low' if self.side == '<=' else 'high'} {self.label}"


@dataclass(frozen=True)
class Slice:
    """Samples that meet all conditions. Losses are means over samples.

    `p_value` is corrected for the whole search; None for a slice that was stated, not searched.
    """

    conditions: tuple[Condition, ...]
    samples: int
    units: int
    share: float
    mean_loss: float
    difference: float
    """Mean loss of the slice minus that of all other samples."""
    p_value: float | None

    @property
    def name(self) -> str:
        """The conditions in words."""
        return " and ".join(condition.words() for condition in self.conditions)

    @property
    def where(self) -> str:
        """The conditions as one SQL expression, for `matching`, Polars, DuckDB or a data test."""
        return " AND ".join(condition.sql() for condition in self.conditions)

    def row(self) -> dict[str, Any]:
        """The slice as JSON values."""
        return {
            "name": self.name, "where": self.where,
            "conditions": [{"trait": c.trait, "label": c.label, "side": c.side, "threshold": c.threshold}
                           for c in self.conditions],
            "samples": self.samples, "units": self.units, "share": self.share, "mean_loss": self.mean_loss,
            "difference": self.difference, "p_value": self.p_value,
        }  # fmt: skip


@dataclass(frozen=True)
class Candidates:
    """Every slice that the search looks at, whatever the losses: index triples of conditions, -1 for none."""

    conditions: list[Condition]
    meets: Members
    """(conditions, n)."""
    parts: NDArray[np.intp]
    """(S, 3)."""

    def members(self, rows: slice | NDArray[np.intp]) -> Members:
        """Which samples some of the slices hold, (s, n)."""
        padded = np.concatenate([self.meets, np.ones((1, self.meets.shape[1]), np.bool_)])
        found: Members = np.asarray(padded[self.parts[rows]].all(axis=1), dtype=np.bool_)
        return found


def mine_slices(
    traits: pl.DataFrame,
    labels: dict[str, str],
    losses: Sequence[float] | Floats,
    units: Sequence[str],
    *,
    permutations: int,
    seed: int,
) -> list[Slice]:
    """The slices of highest loss, best first, each with a p-value for the best of the whole search.

    Candidates are all conjunctions of at most three conditions (a trait at or below its lower, at or above its upper
    tercile; Sagadeeva & Boehm's SliceLine, 2021, without its pruning), of `FEWEST_SAMPLES`, `LEAST_SHARE` and
    `FEWEST_UNITS` at least, and of all samples but as many at most. They do not depend on the losses. Each is scored
    by the difference of its mean loss from the others', in standard deviations of its own permutation null; p is the
    share of permutations whose best candidate scores as well (Westfall & Young 1993). Permutations hand the losses of
    whole units to other units.

    Args:
        traits: one row a sample, float columns named as in `labels`; NaN or null where missing.
        labels: what to call each trait, the preferred ones first; `MOST_TRAITS` that differ are used.
        losses: (n,) finite.
        units: (n,) unit of each sample.
        permutations: how many.
        seed: of the permutations.

    Returns:
        At most `MOST_SLICES`, none that overlaps a better one by more than `MOST_OVERLAP`.
    """
    loss = np.asarray(losses, dtype=np.float64)
    names = np.asarray(units, dtype=np.str_)
    found = candidates(traits, labels, names)
    if not len(found.parts):
        return []
    permuted = permuted_losses(loss, names, permutations, np.random.default_rng(seed))
    scores, best = _scores(found, np.concatenate([loss[None], permuted]))
    chosen: list[Slice] = []
    taken: list[Members] = []
    for place in np.argsort(-scores, kind="stable"):
        own = found.members(np.array([place]))[0]
        if len(chosen) == MOST_SLICES or scores[place] <= 0:
            break
        if all(_overlap(own, other) <= MOST_OVERLAP for other in taken):
            taken.append(own)
            above = int((best[1:] >= scores[place]).sum())
            chosen.append(_described(found, int(place), own, loss, names, (1 + above) / (permutations + 1)))
    return chosen


def slice_table(evaluated: pl.DataFrame, traits: pl.DataFrame) -> pl.DataFrame:
    """What slices are mined from and tested on: a row a labelled sample, sorted by id.

    `evaluated`: evaluation rows with a loss; `traits`: the same set's traits table. The result has the columns of
    `traits`, `loss`, `suspect_share` (NaN without labelled pixels) and, where `evaluated` has it, `unit`.
    """
    known = [name for name in ("sample_id", "unit", "loss") if name in evaluated.columns]
    judged = pl.col("judged_pixels").list.sum()
    share = (pl.col("suspect_pixels").list.sum() / judged).alias(SUSPECT_SHARE)
    rows = evaluated.filter(pl.col("loss").is_not_null()).select(*known, share)
    return rows.join(traits, on="sample_id", how="inner").sort("sample_id")


def suspect_slice(rows: pl.DataFrame) -> Slice | None:
    """The samples in the upper tercile of the suspected share of labels; None where no such slice has support.

    `rows`: `slice_table` with `unit`. The share follows from the loss (a suspected pixel is a costly one), so that this
    slice would win every search: it is stated beside those that are found, without a p-value.
    """
    units = rows["unit"].to_numpy().astype(np.str_)
    found = candidates(rows, {SUSPECT_SHARE: "share of suspected labels"}, units)
    members = found.members(slice(0, len(found.parts)))
    for place, (part, *_) in enumerate(found.parts):
        if found.conditions[part].side == ">=":
            return _described(found, place, members[place], rows["loss"].to_numpy(), units, None)
    return None


def matching(traits: pl.DataFrame, where: str) -> list[str]:
    """Ids of the samples that meet a slice's `where`, in the table's order."""
    ids: list[str] = traits.filter(pl.sql_expr(where))["sample_id"].to_list()
    return ids


def candidates(traits: pl.DataFrame, labels: dict[str, str], units: NDArray[np.str_]) -> Candidates:
    """All slices worth a look; without the losses, so that the search costs no more than its candidates do."""
    conditions, meets = _conditions(traits, labels)
    if not conditions:
        return Candidates([], np.zeros((0, traits.height), np.bool_), np.zeros((0, MOST_CONDITIONS), np.intp))
    least = max(FEWEST_SAMPLES, math.ceil(LEAST_SHARE * traits.height))
    distinct, index = np.unique(units, return_inverse=True)
    in_unit = np.eye(len(distinct), dtype=np.float32)[index]
    everything = Candidates(conditions, meets, _conjunctions(conditions))
    kept, seen = [], set[bytes]()
    for rows in _blocks(len(everything.parts), traits.height):
        members = everything.members(rows)
        count = members.sum(1)
        held = ((members.astype(np.float32) @ in_unit) > 0).sum(1)
        good = (count >= least) & (count <= traits.height - least) & (held >= min(FEWEST_UNITS, len(distinct)))
        for place in np.flatnonzero(good):
            key = np.packbits(members[place]).tobytes()
            if key not in seen:  # a condition more that takes no sample out says nothing
                seen.add(key)
                kept.append(rows.start + int(place))
    return Candidates(conditions, meets, everything.parts[np.asarray(kept, dtype=np.intp)])


def permuted_losses(losses: Floats, units: NDArray[np.str_], permutations: int, rng: np.random.Generator) -> Floats:
    """Losses handed from unit to unit, (permutations, n): the j-th sample of a unit takes the j-th loss of another.

    A shorter unit's losses are taken round again; so losses stay together by unit whatever the units' sizes.
    """
    _, index, sizes = np.unique(units, return_inverse=True, return_counts=True)
    order = np.argsort(index, kind="stable")
    start = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    position = np.empty(len(losses), dtype=np.intp)
    position[order] = np.arange(len(losses)) - start[index[order]]
    given = rng.permuted(np.tile(np.arange(len(sizes)), (permutations, 1)), axis=1)[:, index]
    permuted: Floats = losses[order[start[given] + position % sizes[given]]]
    return permuted


def _conditions(traits: pl.DataFrame, labels: dict[str, str]) -> tuple[list[Condition], Members]:
    conditions: list[Condition] = []
    meets: list[Members] = []
    used: list[Floats] = []
    for name, label in labels.items():
        values = traits[name].cast(pl.Float64).fill_null(math.nan).to_numpy()
        present = values[~np.isnan(values)]
        if len(used) == MOST_TRAITS or present.size == 0 or np.ptp(present) == 0:
            continue
        ranks = _ranks(values)
        if any(abs(float(ranks @ other)) > SAME_TRAIT for other in used):
            continue
        used.append(ranks)
        low, high = (_rounded(float(cut)) for cut in np.quantile(present, [1 / 3, 2 / 3]))
        can_miss = present.size < values.size
        conditions += [Condition(name, label, "<=", low, can_miss), Condition(name, label, ">=", high, can_miss)]
        meets += [values <= low, values >= high]  # NaN meets neither
    return conditions, np.array(meets, dtype=np.bool_)


def _ranks(values: Floats) -> Floats:
    """Centred ranks of unit length, missing ones in the middle: their product is Spearman's ρ."""
    from scipy.stats import rankdata

    present = ~np.isnan(values)
    ranks = np.zeros(len(values))
    own = rankdata(values[present])
    ranks[present] = own - own.mean()
    length = float(np.linalg.norm(ranks))
    return ranks / length if length else ranks


def _conjunctions(conditions: list[Condition]) -> NDArray[np.intp]:
    """Index triples of conditions on different traits, shorter ones first, padded with -1."""
    found: list[tuple[int, ...]] = []
    for size in range(1, MOST_CONDITIONS + 1):
        found += [
            (*parts, *[-1] * (MOST_CONDITIONS - size))
            for parts in itertools.combinations(range(len(conditions)), size)
            if len({conditions[part].trait for part in parts}) == size
        ]
    return np.array(found, dtype=np.intp).reshape(-1, MOST_CONDITIONS)


def _scores(found: Candidates, losses: Floats) -> tuple[Floats, Floats]:
    """Each candidate's standardised difference under the observed losses (row 0), and the best one of every row."""
    observed = np.empty(len(found.parts))
    best = np.full(len(losses), -math.inf)
    centred = losses - losses[0].mean()
    total = centred.sum(1)
    for rows in _blocks(len(found.parts), losses.shape[0] + losses.shape[1]):
        members = found.members(rows).astype(np.float64)
        count = members.sum(1, keepdims=True)
        inside = members @ centred.T
        difference = inside / count - (total - inside) / (losses.shape[1] - count)
        spread = difference.std(1, keepdims=True)
        centre = difference.mean(1, keepdims=True)
        scores = np.divide(difference - centre, spread, out=np.zeros_like(difference), where=spread > 0)
        observed[rows] = scores[:, 0]
        best = np.maximum(best, scores.max(0))
    return observed, best


def _described(
    found: Candidates, place: int, own: Members, losses: Floats, units: NDArray[np.str_], p_value: float | None
) -> Slice:
    conditions = tuple(found.conditions[part] for part in found.parts[place] if part >= 0)
    mean = float(losses[own].mean())
    return Slice(
        conditions=conditions, samples=int(own.sum()), units=len(np.unique(units[own])), share=float(own.mean()),
        mean_loss=mean, difference=mean - float(losses[~own].mean()), p_value=p_value,
    )  # fmt: skip


def _overlap(one: Members, other: Members) -> float:
    return float((one & other).sum() / (one | other).sum())


def _rounded(value: float) -> float:
    """To a few digits, before anything is selected by it: what is written down is what was used."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _blocks(count: int, width: int) -> Iterator[slice]:
    step = max(1, BLOCK_VALUES // max(width, 1))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
