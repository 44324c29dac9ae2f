"""Shapley values: what each player of a cooperative game is worth, counted over all coalitions.

Belongs here: exact values for few players, of numbers or of bootstrap draws. Does not: what a coalition's value is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Player = TypeVar("Player", bound=Hashable)


def coalitions(players: Sequence[Player]) -> Iterator[frozenset[Player]]:
    """All 2^k coalitions, the empty one first, smaller before larger."""
    for size in range(len(players) + 1):
        for members in itertools.combinations(players, size):
            yield frozenset(members)


def shapley_values(
    players: Sequence[Player],
    value: Mapping[frozenset[Player], ArrayLike] | Callable[[frozenset[Player]], ArrayLike],
) -> dict[Player, Floats]:
    """Exact Shapley values (Shapley 1953), every coalition's value asked for once.

    φᵢ = Σ over S without i of |S|!(k − |S| − 1)!/k! · (v(S ∪ i) − v(S)). They sum to v(all) − v(∅); players that add
    the same have the same value, one that adds nothing has 0. The values are linear in v, so that those of bootstrap
    draws of v are draws of the values.

    Args:
        players: (k,) distinct; 2^k values are needed.
        value: a coalition's value, a number or an array (draws,), by coalition or as a function of it.

    Returns:
        By player in the order given: an array of the values' shape (that of a number is ()).

    Raises:
        ValueError: a player named twice.
        KeyError: a coalition that the mapping lacks.
    """
    count = len(players)
    if len(set(players)) != count:
        raise ValueError(f"players must be distinct, got {list(players)}")
    ask = value.__getitem__ if isinstance(value, Mapping) else value
    values = {members: np.asarray(ask(members), dtype=np.float64) for members in coalitions(players)}
    weights = [1 / (count * math.comb(count - 1, size)) for size in range(count)]
    found: dict[Player, Floats] = {}
    for player in players:
        gains = [
            weights[len(members)] * (values[members | {player}] - worth)
            for members, worth in values.items()
            if player not in members
        ]
        found[player] = np.asarray(np.sum(gains, axis=0), dtype=np.float64)
    return found
