"""Numbers as they are read: percent, points, durations, counts."""

from math import floor, log10

from pipeline.evaluation.catalogue import METRICS, SHARE

MINUS, THIN = "\N{MINUS SIGN}", "\N{NARROW NO-BREAK SPACE}"
# Metrics that are shares of one.
SHARES = tuple(name for name, metric in METRICS.items() if metric.unit == SHARE)
# Metrics of the feature space.
OF_FEATURES = tuple(name for name, metric in METRICS.items() if metric.of_features)


def number(value: float, decimals: int = 1, signed: bool = False) -> str:
    """A number with a real minus sign; no sign before what rounds to zero."""
    text = f"{value:{'+' if signed else ''}.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def percent(share: float, decimals: int = 1, signed: bool = False) -> str:
    """A share of one, in percent without the sign for it."""
    return number(100 * share, decimals, signed)


def value_of(value: float, metric: str) -> str:
    """The value of a metric: shares in percent, others with three decimals."""
    return percent(value) if metric in SHARES else number(value, 3)


def metric_name(metric: str) -> str:
    """A metric in words."""
    return METRICS[metric].words if metric in METRICS else metric.replace("_", " ")


def metric_title(metric: str) -> str:
    """A metric as a heading; names such as S_Dbw keep their capitals."""
    name = metric_name(metric)
    return name[0].upper() + name[1:]


def with_error(value: float, error: float) -> tuple[str, str]:
    """A value and its error, both as precise as two significant digits of the error."""
    decimals = max(1 - floor(log10(error)), 0) if error > 0 else 3
    return number(value, decimals), number(error, decimals)


def count(value: float) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,.0f}"


def digits(value: float) -> str:
    """A number with two significant digits, and never in powers of ten."""
    return f"{float(f'{value:.2g}'):f}".rstrip("0").rstrip(".").replace("-", MINUS)


def duration(seconds: float) -> str:
    """A time in the two largest units that it fills."""
    if seconds < 10:
        return f"{seconds:.1f}{THIN}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{THIN}s"
    if whole < 3600:
        return f"{whole // 60}{THIN}min {whole % 60:02}{THIN}s"
    return f"{whole // 3600}{THIN}h {whole % 3600 // 60:02}{THIN}min"


def plural(amount: int, one: str, many: str | None = None) -> str:
    """``1 seed``, ``5 seeds``."""
    return f"{count(amount)} {one if amount == 1 else many or one + 's'}"
