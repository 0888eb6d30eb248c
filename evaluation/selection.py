"""Which cases deserve a look: best, median, worst, and the failures with their reasons."""

from nnunetv2.utilities.data_description import THE_QUIZ, DataDescription

WHOLE_FAILURE = 0.80  # DSC of the whole organ below this is visibly wrong
MOST_FAILURES = 50  # with a picture of their own: more take hours, and nobody looks through them


def failures(row: dict, description: DataDescription = THE_QUIZ) -> list[str]:
    """Why a case row of metrics.json counts as failed; empty if it does not. A lone lesion has no organ whose DSC would count."""
    reasons = segmentation_failures(row, description)
    if "subtype_true" in row and row["subtype_true"] != row["subtype_predicted"]:
        reasons.append(f"wrong {description.task_words}")
    return reasons


def segmentation_failures(row: dict, description: DataDescription = THE_QUIZ) -> list[str]:
    """The failures that a picture of the masks can show."""
    reasons, whole, lesion = [], description.whole, description.lesion
    if whole != lesion and row[f"{whole.key}_outcome"] != "both_empty" and row[f"{whole.key}_dsc"] < WHOLE_FAILURE:
        reasons.append(f"{whole.word} DSC below {WHOLE_FAILURE:.2f}")
    if lesion and row[f"{lesion.key}_detected"] == 0:
        reasons.append(f"{lesion.word} not found")
    if lesion and row[f"{lesion.key}_outcome"] == "false_alarm":
        reasons.append(f"{lesion.word} where there is none")
    return reasons


def quality(row: dict, description: DataDescription = THE_QUIZ) -> float | None:
    """What cases are ranked by: mean DSC of the structures that are drawn, as far as defined; None if none is, as where nothing is and nothing was found."""
    values = [row[f"{structure.key}_dsc"] for structure in description.drawn if row[f"{structure.key}_dsc"] is not None]
    return sum(values) / len(values) if values else None


def noteworthy(rows: list[dict], description: DataDescription = THE_QUIZ) -> dict[str, list[str]]:
    """{case: reasons to show it}: best, median and worst by `quality`, then segmentation failures, the MOST_FAILURES worst of them. Ties go by name.

    Cases without a quality are ranked only where no case has one. Failures keep the order of `rows`; one without a quality counts as the worst.
    """
    of_case = {row["case"]: quality(row, description) for row in rows}
    defined = {case: value for case, value in of_case.items() if value is not None} or dict.fromkeys(of_case, 0.0)
    ranked = sorted(defined, key=lambda case: (-defined[case], case))
    chosen: dict[str, list[str]] = {}
    for case, reason in ((ranked[0], "best"), (ranked[len(ranked) // 2], "median"), (ranked[-1], "worst")):
        chosen.setdefault(case, []).append(reason)
    failed = {row["case"]: reasons for row in rows if (reasons := segmentation_failures(row, description))}
    shown = set(sorted(failed, key=lambda case: (-1.0 if of_case[case] is None else of_case[case], case))[:MOST_FAILURES])
    for case, reasons in failed.items():
        if case in chosen or case in shown:
            chosen.setdefault(case, []).extend(reasons)
    return chosen
