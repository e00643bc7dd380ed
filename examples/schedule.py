"""The learning rate over a training."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR


def one_cycle(optimizer: Optimizer, rate: float | list[float], steps: int, warmup: float) -> OneCycleLR:
    """Return a schedule that rises to the rate, or the rates of the groups, over a share of the steps, then falls.

    A rise of exactly one step, by which `OneCycleLR` divides by zero, is left out: the first step has the full rate.
    """
    return OneCycleLR(optimizer, rate, steps, pct_start=warmup * (1 - 1e-6) if warmup * steps == 1 else warmup)
