"""The confounder bank: order, weights, and one bank shared by all processes."""

import pytest
import torch

from causalcxr.layers import ConfounderBank
from two_processes import in_two_processes


def _rows(*numbers):
    """Return features (B, 2, 3), each identified by its number."""
    return torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1).expand(-1, 2, 3)


def _numbers(features):
    assert bool((features == features[:, :1, :1]).all())
    return features[:, 0, 0].long().tolist()


def _bank(size=5, **kwargs):
    return ConfounderBank(size, num_classes=2, dim=3, **kwargs)


@pytest.mark.parametrize(
    ("dtype", "bad"), [(torch.float32, float("nan")), (torch.float32, float("inf")), (torch.float16, 1e6)]
)
@pytest.mark.parametrize("size", [1, 4, 5])
@pytest.mark.parametrize("lengths", [(3, 3, 3), (1, 1, 1, 1, 1, 1), (7, 2, 1), (2, 12, 3, 4), (5, 5), (0, 3, 0), (60,)])
def test_the_newest_finite_features_are_kept(lengths, size, dtype, bad):
    """A weight of 0 would not make the others harmless: 0 times infinity is NaN. 1e6 is infinite in float16."""
    bank, seen = _bank(size, dtype=dtype), []
    for length in lengths:
        numbers = torch.arange(len(seen) + 1, len(seen) + 1 + length)
        seen += numbers.tolist()
        features = _rows(*numbers).clone()
        features[numbers % 4 == 0, 1, 2] = bad
        bank.update(features)
        kept = [number for number in seen if number % 4][-size:]
        assert len(bank) == len(kept)
        assert sorted(_numbers(bank.features)) == kept
        expected = [1 / max(len(kept), 1)] * len(kept) + [0] * (size - len(kept))
        assert bank.slot_prior.tolist() == pytest.approx(expected)
        assert bank.stored.isfinite().all()


def test_features_are_detached_copies():
    bank, features = _bank(), torch.ones(2, 2, 3, requires_grad=True)
    bank.update(features)
    with torch.no_grad():
        features.zero_()
    assert not bank.features.requires_grad
    assert _numbers(bank.features) == [1, 1]


def test_saved_bank_goes_on_where_it_was():
    bank, resumed = _bank(4), _bank(4)
    bank.update(_rows(1, 2, 3, 4, 5, 6))
    resumed.load_state_dict(bank.state_dict())
    for either in (bank, resumed):
        either.update(_rows(7))
    assert sorted(_numbers(resumed.features)) == [4, 5, 6, 7]
    torch.testing.assert_close(resumed.state_dict(), bank.state_dict(), rtol=0, atol=0)


# The numbers that each of two processes stores in each update: equal and unequal counts, none, and more than fit.
UPDATES = [(list(range(20, 29)), [40]), ([1, 2], [11, 12]), ([3], [13, 14, 15]), ([4, 5], [])]


def _store(rank):
    """Run the updates of one process and return the state of the bank after each."""
    bank, states = _bank(6), []
    for numbers in UPDATES:
        bank.update(_rows(*numbers[rank]))
        states.append({name: buffer.clone() for name, buffer in bank.state_dict().items()})
    with pytest.raises(ValueError, match="largest of the first step, 9"):
        bank.update(_rows(*range(10)))
    return states


def test_all_processes_hold_the_same_bank_of_all_their_features(tmp_path):
    first, second = in_two_processes(_store, tmp_path)
    alone = _bank(6)
    for numbers, state, other in zip(UPDATES, first, second, strict=True):
        alone.update(_rows(*numbers[0], *numbers[1]))
        torch.testing.assert_close(state, dict(alone.state_dict()), rtol=0, atol=0)
        torch.testing.assert_close(other, state, rtol=0, atol=0)
