"""What several seeds say of a metric: mean, spread, and the difference between two systems that share their seeds."""

import math
import statistics

from pydantic import BaseModel
from scipy.stats import t

CONFIDENCE = 0.95
Values = dict[int, float]  # by seed


class Contrast(BaseModel):
    """A system against another: mean difference and ratio over the seeds that both have, with their 95 % intervals.

    `low` and `high` are None where one seed alone tells nothing of chance, a ratio where not all values are positive.
    """

    seeds: list[int]
    difference: float
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None

    @property
    def is_certain(self) -> bool:
        """Whether the interval of the difference leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def ratio_text(self) -> str:
        """The ratio with its interval; empty where there is none."""
        if self.ratio is None:
            return ""
        ends = "" if self.ratio_low is None else f" [{self.ratio_low:.3f}, {self.ratio_high:.3f}]"
        return f"{self.ratio:.3f}{ends}"


def spread(values: Values) -> float | None:
    """Standard deviation over seeds; None of fewer than two."""
    return statistics.stdev(values.values()) if len(values) > 1 else None


def contrast(own: Values, baseline: Values) -> Contrast | None:
    """Paired by seed: Student's interval of the mean difference, and of the mean logarithm of ratios. None: no pair."""
    seeds = sorted(own.keys() & baseline.keys())
    if not seeds:
        return None
    difference, low, high = _interval([own[seed] - baseline[seed] for seed in seeds])
    found = Contrast(seeds=seeds, difference=difference, low=low, high=high)
    if all(own[seed] > 0 and baseline[seed] > 0 for seed in seeds):
        logs = _interval([math.log(own[seed] / baseline[seed]) for seed in seeds])
        ratio, ratio_low, ratio_high = (None if end is None else math.exp(end) for end in logs)
        found = found.model_copy(update={"ratio": ratio, "ratio_low": ratio_low, "ratio_high": ratio_high})
    return found


def _interval(values: list[float]) -> tuple[float, float | None, float | None]:
    """Mean and ends of its interval by Student's t; no ends of one value."""
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return mean, None, None
    reach = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * statistics.stdev(values) / math.sqrt(count)
    return mean, mean - reach, mean + reach
