import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from schedule import one_cycle


def rates(scheduler: OneCycleLR, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize(("steps", "warmup"), [(5, 0.2), (20, 0.05)])
def test_a_rise_of_one_step_is_left_out(steps: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    seen = rates(one_cycle(optimizer, 0.5, steps, warmup), optimizer, steps)
    assert seen[0] == pytest.approx(0.5, rel=1e-5)
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 1e-5


def test_other_rises_are_those_of_one_cycle() -> None:
    seen = []
    for schedule in (one_cycle, lambda *args: OneCycleLR(*args[:3], pct_start=args[3])):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        seen.append(rates(schedule(optimizer, 0.5, 12, 0.25), optimizer, 12))
    assert seen[0] == seen[1]
    assert seen[0].index(max(seen[0])) == 2
