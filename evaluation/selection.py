"""Which cases deserve a look: best, median, worst, and every failure with its reasons."""

WHOLE_FAILURE = 0.80  # whole-pancreas DSC below this is visibly wrong


def failures(row: dict) -> list[str]:
    """Why a case row of metrics.json counts as failed; empty if it does not."""
    reasons = []
    if row["whole_pancreas_outcome"] != "both_empty" and row["whole_pancreas_dsc"] < WHOLE_FAILURE:
        reasons.append(f"pancreas DSC below {WHOLE_FAILURE:.2f}")
    if row["lesion_detected"] == 0:
        reasons.append("lesion not found")
    if row["lesion_outcome"] == "false_alarm":
        reasons.append("lesion where there is none")
    if "subtype_true" in row and row["subtype_true"] != row["subtype_predicted"]:
        reasons.append("wrong subtype")
    return reasons


def segmentation_failures(row: dict) -> list[str]:
    """The failures that a picture of the masks can show."""
    return [reason for reason in failures(row) if reason != "wrong subtype"]


def quality(row: dict) -> float:
    """What cases are ranked by: mean DSC of whole pancreas and lesion, as far as defined; 0 if neither is."""
    values = [row[key] for key in ("whole_pancreas_dsc", "lesion_dsc") if row[key] is not None]
    return sum(values) / len(values) if values else 0.0


def noteworthy(rows: list[dict]) -> dict[str, list[str]]:
    """{case: reasons to show it}: best, median and worst by `quality`, then every segmentation failure. Ties go by name."""
    ranked = [row["case"] for row in sorted(rows, key=lambda row: (-quality(row), row["case"]))]
    chosen: dict[str, list[str]] = {}
    for case, reason in ((ranked[0], "best"), (ranked[len(ranked) // 2], "median"), (ranked[-1], "worst")):
        chosen.setdefault(case, []).append(reason)
    for row in rows:
        if reasons := segmentation_failures(row):
            chosen.setdefault(row["case"], []).extend(reasons)
    return chosen
