"""The pointing game."""

import pytest
import torch
import torch.nn.functional as F

from causalcxr.data.nih import Box
from causalcxr.metrics import pointing_game
from reference.comparison import DEVICES


def _smooth_map(seed, height=40, width=56):
    """Interpolated coarse noise: a few irregular hills."""
    noise = torch.rand(1, 1, 7, 9, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, size=(height, width), mode="bilinear", align_corners=False)[0, 0]


@pytest.mark.parametrize("offset", [0.0, -1e4])
def test_constant_map_has_no_peak(offset):
    constant = torch.full((12, 10), offset)
    constant[5, 5] += 5e-8 * abs(offset)  # within rounding error
    assert not pointing_game(constant, [(0, 0, 10, 12)])


def test_pointing_game_hits_the_pixels_whose_centre_lies_in_the_box():
    box = (2.5, 1.5, 4, 5)  # from centre to centre: it includes its left and upper edge only
    for row in range(10):
        for column in range(12):
            heat_map = torch.zeros(10, 12)
            heat_map[row, column] = 1.0
            assert pointing_game(heat_map, [box]) is (1 <= row < 6 and 2 <= column < 6)


def test_any_of_several_boxes_will_do():
    heat_map = _smooth_map(3)
    row, column = divmod(int(heat_map.argmax()), 56)
    away = ((column + 20) % 50, (row + 15) % 35, 4, 4)
    assert not pointing_game(heat_map, [away])
    assert pointing_game(heat_map, torch.tensor([away, (column, row, 1, 1)]))
    assert pointing_game(heat_map, [(-1, -1, 58, 42)])  # one pixel beyond the map on each side


@pytest.mark.parametrize("device", DEVICES)
def test_heat_maps_of_half_precision_with_gradients_on_any_device(device):
    heat_map = (torch.eye(16)[3] / 2).expand(16, 16).to(device, torch.bfloat16).requires_grad_()
    assert pointing_game(heat_map, torch.tensor([[3, 0, 1, 1]], device=device))


@pytest.mark.parametrize(
    "heat_map", [torch.zeros(1, 4, 4), torch.zeros(0, 4), torch.tensor([[0.0, torch.nan], [torch.inf, 1.0]])]
)
def test_bad_heat_maps_are_refused(heat_map):
    with pytest.raises(ValueError, match="heat_map must"):
        pointing_game(heat_map, [(0, 0, 1, 1)])


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([Box("Mass", 1.0, 2.0, 3.0, 4.0)], r"box\[1:\]"),
        ((1, 2, 3, 4), r"\[box\] for a single box"),
        ([(1, 2, -3, 4)], "not negative"),
        ([(1, float("nan"), 3, 4)], "finite"),
        ([], "at least one"),
        ([(0, 0, 1, 1), (300, 2, 3, 4)], "height 8 and width 9"),
        ([(0, 0, 9, 11)], "height 8"),
        ([(-2, 0, 3, 3)], "height 8"),
    ],
)
def test_bad_boxes_are_refused(boxes, message):
    with pytest.raises(ValueError, match=message):
        pointing_game(torch.rand(8, 9), boxes)
