"""Is the lesion found at all, and how does that depend on its size."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.stats import binomtest

from evaluation.bootstrap import estimate


def lesion_detection(reference: np.ndarray, prediction: np.ndarray) -> dict[str, float | int]:
    """Detection of one case's lesion from boolean masks (Z, Y, X).

    detected: 1 if prediction and reference share a voxel, 0 if not, NaN without a lesion in the reference.
    false_positive_components: predicted components (26-neighbourhood, any size) that share no voxel with the reference.
    """
    components, count = ndimage.label(prediction, structure=np.ones((3, 3, 3)))
    touching = np.unique(components[reference])
    return {
        "detected": float((reference & prediction).any()) if reference.any() else float("nan"),
        "false_positive_components": int(count - np.count_nonzero(touching)),
    }


def detection_rate(detected: np.ndarray) -> dict[str, float | int]:
    """Share of lesions found, from 0/1/NaN per case (n,), with Wilson's interval.

    A bootstrap of 36 hits in 36 cases would claim certainty, [1, 1]; Wilson's interval (JASA 1927) says [0.90, 1].
    """
    hits = detected[~np.isnan(detected)]
    if len(hits) == 0:
        return {"mean": float("nan"), "ci_low": float("nan"), "ci_high": float("nan"), "n": 0, "found": 0}
    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return {"mean": float(hits.mean()), "ci_low": interval.low, "ci_high": interval.high, "n": len(hits), "found": int(hits.sum())}


def by_size_tertile(volume_ml: np.ndarray, dsc: np.ndarray, detected: np.ndarray, counts: np.ndarray) -> list[dict]:
    """Lesion DSC and detection in thirds of the cases by reference volume (n,); cases without a lesion are left out.

    counts: bootstrap counts (resamples, n). Fewer than three lesions: no tertiles, an empty list.
    """
    ranked = np.flatnonzero(volume_ml > 0)[np.argsort(volume_ml[volume_ml > 0], kind="stable")]
    if len(ranked) < 3:
        return []
    return [{"tertile": name, "volume_ml": [float(volume_ml[third[0]]), float(volume_ml[third[-1]])],
             "dsc": estimate(dsc[third], counts[:, third]), "detection_rate": detection_rate(detected[third])}
            for name, third in zip(("small", "medium", "large"), np.array_split(ranked, 3))]


def volume_agreement(reference_ml: Sequence[float], predicted_ml: Sequence[float], counts: np.ndarray) -> dict:
    """Bland and Altman (Lancet 1986): bias of the predicted volume, ml, and 95 % limits of agreement, bias -/+ 1.96 SD.

    All cases count, empty masks as 0 ml. With one case the SD, and with it the limits, are undefined.
    """
    difference = np.asarray(predicted_ml, float) - np.asarray(reference_ml, float)
    deviation = float(difference.std(ddof=1)) if len(difference) > 1 else float("nan")
    bias = estimate(difference, counts)
    return {"bias_ml": bias, "sd_ml": deviation, "absolute_error_ml": estimate(np.abs(difference), counts),
            "limits_ml": [bias["mean"] - 1.96 * deviation, bias["mean"] + 1.96 * deviation]}
