"""What the modules of the report's document share: numbers and intervals as JSON holds them.

Belongs here: the base of its parts, types that more than one module of the document uses. Does not: what a report says.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is not defined is null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _finite_interval(value: Any) -> Any:
    if value is None or any(_finite(float(bound)) is None for bound in value):
        return None
    return value


Number = Annotated[float | None, BeforeValidator(_finite)]
Interval = Annotated[tuple[float, float] | None, BeforeValidator(_finite_interval)]


class Part(BaseModel):
    """Base of all parts of the document: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
