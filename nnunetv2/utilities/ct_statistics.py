"""What the plans say of a CT channel's foreground."""

from collections.abc import Mapping

from nnunetv2.utilities.errors import InputError

STATISTICS = ("mean", "std", "percentile_00_5", "percentile_99_5")


def missing_statistics(properties: Mapping[str, float]) -> list[str]:
    """Those of STATISTICS that `properties` of one channel lack."""
    return [name for name in STATISTICS if name not in properties]


def ct_statistics(properties: Mapping[str, float]) -> Mapping[str, float]:
    """`properties` of one channel, which hold all STATISTICS; InputError names those that are missing."""
    if missing := missing_statistics(properties):
        raise InputError(f"CTNormalization needs {', '.join(missing)} of the channel's foreground. Plan the dataset again.")
    return properties
