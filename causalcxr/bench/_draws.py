"""Random streams of the benchmark, and counts that follow a wanted association exactly."""

import itertools
import math

__all__ = ["APPEARANCE_STREAM", "CHOICE_STREAM", "ORDER_STREAM", "STRUCTURE_STREAM", "count_agreeing", "round_share"]

# Numbers that no stream of `SyntheticCXR` has, so that its images may have the same seed.
ORDER_STREAM, APPEARANCE_STREAM, CHOICE_STREAM, STRUCTURE_STREAM = range(100, 104)


def round_share(n: int, share: float) -> int:
    """The number of images, of n, that is nearest to a share of them; halves are rounded up."""
    return math.floor(share * n + 0.5)


def count_agreeing(n: int, correlation: float, what: str) -> int:
    """How many of n images have the confounder that the association gives their label.

    Raises:
        ValueError: Rounding would turn an association into a certainty.
    """
    count = round_share(n, correlation)
    if 0 < correlation < 1 and not 0 < count < n:
        needed = next(k for k in itertools.count(n + 1) if 0 < round_share(k, correlation) < k)
        raise ValueError(
            f"correlation {correlation:g} cannot be had with {n} {what}: rounded, it would be {count} of {n}; "
            f"at least {needed} are needed"
        )
    return count
