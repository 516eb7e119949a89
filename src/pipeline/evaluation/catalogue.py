"""The metrics of runs: what each is called in words, what it is in, and which way is better."""

from typing import NamedTuple

SHARE, NATS, PURE = "share", "nats", "1"


class Metric(NamedTuple):
    """What a number of a run means.

    Attributes:
        words: Its name.
        unit: ``share`` of one, ``nats``, or ``1`` for a number without a unit.
        lower_is_better: Which way is better.
        of_features: Whether it tells of the feature space instead of predictions.
    """

    words: str
    unit: str
    lower_is_better: bool = False
    of_features: bool = False


# Every metric of a ``metrics`` table, ``images`` apart, which is a count.
METRICS = {
    "top1": Metric("top-1 accuracy", SHARE),
    "top5": Metric("top-5 accuracy", SHARE),
    "mean_per_class": Metric("mean per-class accuracy", SHARE),
    "negative_log_likelihood": Metric("negative log-likelihood", NATS, lower_is_better=True),
    "expected_calibration_error": Metric("calibration error", SHARE, lower_is_better=True),
    "s_dbw": Metric("S_Dbw", PURE, lower_is_better=True, of_features=True),
    "scat": Metric("Scat", PURE, lower_is_better=True, of_features=True),
    "dens_bw": Metric("Dens_bw", PURE, lower_is_better=True, of_features=True),
    "s_dbw_coin": Metric("S_Dbw by COIN's code", PURE, lower_is_better=True, of_features=True),
    "intra_class_spread": Metric("spread within classes", PURE, lower_is_better=True, of_features=True),
    "inter_class_spread": Metric("spread between classes", PURE, of_features=True),
}
