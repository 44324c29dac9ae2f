"""What time it is: what a run writes down as its time, told from outside so that nights can be replayed.

Belongs here: the clock. Does not: schedules.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Clock:
    """The machine's time, or always `fixed`."""

    fixed: datetime | None = None

    def now(self) -> datetime:
        """The time, in UTC."""
        return self.fixed or datetime.now(UTC)
