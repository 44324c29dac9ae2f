"""A report's figures as a tracking server takes them: flat names with numbers, short texts beside them.

Belongs here: which figures, under which names. Does not: the server (`resources/tracking.py`).
"""

from __future__ import annotations

import json
from collections import Counter

from assets.report.document import ReportDocument


def logged_metrics(document: ReportDocument) -> dict[str, float | int | None]:
    """Gap, latent gap, shares of causes, counts of verdicts, what the recipe closes; None where not defined."""
    gap, left, recipe = document.performance_gap, document.unexplained, document.recipe
    low, high = gap.ci95 or (None, None)
    metrics: dict[str, float | int | None] = {
        "loss_gap": gap.loss_gap, "loss_gap_low": low, "loss_gap_high": high, "target_loss": gap.target_loss,
        "source_loss": gap.source_loss, "target_miou": gap.target_miou, "source_miou": gap.source_miou,
        "unexplained": left.value, "recipe_gap_closed": recipe.gap_closed, "recipe_loss_after": recipe.loss_after,
        "root_causes": len(document.root_causes),
    }  # fmt: skip
    metrics |= {f"latent/{name}": row.value for name, row in document.latent_gap.items()}
    metrics |= {f"share/{row.family}": row.share for row in document.attribution}
    verdicts = Counter(row.verdict for row in document.experiments)
    metrics |= {f"verdicts/{word}": verdicts[word] for word in ("confirmed", "refuted", "inconclusive", "skipped")}
    if document.next_samples is not None:
        metrics["uncovered_samples"] = document.next_samples.uncovered
    return metrics


def logged_params(document: ReportDocument) -> dict[str, str]:
    """What the figures are of: data sets, model, causes, the recipe's steps with their parameters."""
    steps = {f"recipe_{i}_{step.hypothesis}": json.dumps(step.parameters, sort_keys=True)
             for i, step in enumerate(document.recipe.steps, 1)}  # fmt: skip
    return {
        "source": document.source.name, "target": document.target.name,
        "model": f"{document.model.architecture}, {document.model.encoder}",
        "model_fingerprint": document.model.fingerprint, "causes": ", ".join(document.root_causes) or "none", **steps,
    }  # fmt: skip
