"""Model cards: what adapted weights are, what they were made from, what they do, how to load them.

Belongs here: the card as data and as Markdown. Does not: weights (`runs.py`), figures (`judged.py`).
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from assets.adaptation.judged import SeedFigures, Tried
from assets.adaptation.runs import WEIGHTS, Record


def card(one: Tried, record: Record, figures: SeedFigures, source: dict[str, str]) -> dict[str, Any]:
    """One run's card; `source` names the data sets `source` and `target`, and the `model` by its fingerprint."""
    return {
        "title": f"{source['target']}: {one.title}",
        "source_model": source["model"],
        "source": source["source"],
        "target": source["target"],
        "method": {"id": one.method.id, "title": one.title, "paper": one.method.paper,
                   "description": one.method.description},
        "pictures": record.pictures,
        "seed": record.seed,
        "steps": record.steps,
        "planned_steps": record.planned,
        "minutes": record.seconds / 60,
        "note": record.note,
        "weights": record.digest,
        "figures": {name: _plain(value) for name, value in asdict(figures).items()},
    }  # fmt: skip


def markdown(found: dict[str, Any]) -> str:
    """A card as README.md."""
    figures = found["figures"]
    used = "\n".join(f"- {what}: {count} pictures" for what, count in found["pictures"].items())
    steps = f"{found['steps']} of {found['planned_steps']} steps, {found['minutes']:.1f} minutes, seed {found['seed']}"
    note = f"\n{found['note'].capitalize()}.\n" if found["note"] else ""
    return f"""# {found["title"]}

Weights of model `{found["source_model"]}` (trained on {found["source"]}), adapted to {found["target"]}.
{found["method"]["description"]}
Paper: {found["method"]["paper"]}.

## Data

{used}

{steps}.
{note}
## Figures

Measured on pictures that took no part in the fit: the target's report half and the source holdout's.

| what | before | after | change, 95% interval |
|---|---|---|---|
| target loss | {_text(figures["loss_before"])} | {_text(figures["loss_after"])} | closes {_share(figures["gap_closed"])} {_shares(figures["ci95"])} of the gap |
| target mIoU | {_text(figures["miou_before"])} | {_text(figures["miou_after"])} | |
| source loss | | | {_signed(figures["harm"])} {_bounds(figures["harm_ci95"])} |
| source mIoU | {_text(figures["source_miou_before"])} | {_text(figures["source_miou_after"])} | |

## Use

The other keys of `model` stay as they are in the config of the model that was adapted:

```yaml
model:
  checkpoint: {WEIGHTS}   # relative to the config
```
"""  # noqa: E501


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _shares(bounds: list[float | None]) -> str:
    return f"[{_share(bounds[0])}, {_share(bounds[1])}]"


def _bounds(bounds: list[float | None]) -> str:
    return f"[{_signed(bounds[0])}, {_signed(bounds[1])}]"
