"""Weights that remove the association between a known confounder and the labels."""

import pytest
import torch

from causalcxr.losses import backdoor_weights
from reference.comparison import DEVICES
from reference.losses import backdoor_weights as counted_weights

NAN = float("nan")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_strata", [1, 3, 30])
@pytest.mark.filterwarnings("ignore:.*combinations of label and stratum have no image")  # with 30 strata
def test_weights_equal_those_from_counting(num_strata, device):
    """The labels of 60 images are more frequent in later strata, and a tenth of them are unknown."""
    generator = torch.Generator().manual_seed(0)
    strata = torch.randint(num_strata, (60,), generator=generator)
    chance = (strata[:, None] + 1.0) / (num_strata + 2) + torch.tensor([0.0, 0.1, -0.1, 0.2])
    targets = (torch.rand(60, 4, generator=generator) < chance).float()
    targets[torch.rand(60, 4, generator=generator) < 0.1] = NAN
    given = backdoor_weights(targets.to(device), strata.to(device))
    assert given.device.type == device
    expected = torch.tensor(counted_weights(targets.tolist(), strata.tolist()))
    torch.testing.assert_close(given.cpu(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("smoothing", "expected"),
    [
        (0.0, [1 / 3, 2 / 3, 2 / 3]),
        # Counts of labels 0 and 1, plus one each: (1, 2) in stratum -5 and (3, 1) in stratum 7.
        (1.0, [3 * 3 / (7 * 2), 4 * 4 / (7 * 3), 4 * 4 / (7 * 3)]),
    ],
)
def test_combination_that_never_occurs_warns(smoothing, expected):
    targets, strata = torch.tensor([[1.0], [0.0], [0.0]]), torch.tensor([-5, 7, 7])
    with pytest.warns(UserWarning, match="^2 combinations .* label 0 = 0 in stratum -5"):
        weights = backdoor_weights(targets, strata, smoothing=smoothing)
    torch.testing.assert_close(weights[:, 0], torch.tensor(expected))


def test_unknown_labels_weigh_nothing_even_where_no_label_is_known():
    targets = torch.tensor([[NAN, 1.0], [NAN, NAN], [NAN, 0.0], [NAN, 0.0]])
    weights = backdoor_weights(targets, torch.zeros(4).long())
    torch.testing.assert_close(weights, torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))


def test_many_strata_take_no_more_memory_than_images():
    """A table of images by strata would have 4e10 entries here."""
    strata = torch.arange(200_000)
    assert torch.equal(backdoor_weights(torch.ones(200_000, 1), strata), torch.ones(200_000, 1))
