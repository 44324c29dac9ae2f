"""When a report is worth telling somebody about: its figures against the config's thresholds.

Belongs here: the decision, as sentences. Does not: sending, Dagster.
"""

from __future__ import annotations

from assets.report.document import ReportDocument
from resources.config import AlertsConfig


def breached(document: ReportDocument, alerts: AlertsConfig, previous_gap_closed: float | None) -> list[str]:
    """One sentence for each threshold that the report crosses; figures that are not defined cross none.

    `previous_gap_closed`: what the recipe closed in the report before this one.
    """
    found = []
    loss_gap, separation = document.performance_gap.loss_gap, document.latent_gap.get("knn_auroc")
    closed = document.recipe.gap_closed
    if alerts.loss_gap is not None and loss_gap is not None and loss_gap > alerts.loss_gap:
        estimated = "estimated " if document.performance_gap.estimated else ""
        found.append(f"{estimated}loss gap {loss_gap:.3f} is above {alerts.loss_gap:.3f}")
    if alerts.knn_auroc is not None and separation is not None and (separation.value or 0) > alerts.knn_auroc:
        found.append(f"kNN AUROC {separation.value:.3f} is above {alerts.knn_auroc:.3f}")
    if alerts.gap_closed_drop is not None and previous_gap_closed is not None:
        drop = previous_gap_closed - (closed or 0.0)
        if drop > alerts.gap_closed_drop:
            found.append(f"the recipe closes {closed or 0.0:.0%} of the gap, {drop:.0%} less than before")
    return found
