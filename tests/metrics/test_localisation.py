"""The pointing game, `peak_box` against a literal flood fill, and `box_iou`."""

import pytest
import torch
import torch.nn.functional as F

from causalcxr.data.nih import Box
from causalcxr.metrics import box_iou, peak_box, pointing_game
from reference.comparison import DEVICES


def _smooth_map(seed, height=40, width=56):
    """Interpolated coarse noise: a few irregular hills."""
    noise = torch.rand(1, 1, 7, 9, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, size=(height, width), mode="bilinear", align_corners=False)[0, 0]


def _flood_fill_box(heat_map, threshold=0.5):
    """Flood fill from the first maximum, in all eight directions."""
    values = [[float(value) for value in row] for row in heat_map.double()]
    H, W = len(values), len(values[0])
    low, high = min(map(min, values)), max(map(max, values))
    start = next((r, c) for r in range(H) for c in range(W) if values[r][c] == high)
    seen, todo = {start}, [start]
    while todo:
        r, c = todo.pop()
        for near in ((r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
            inside = 0 <= near[0] < H and 0 <= near[1] < W
            if inside and near not in seen and (values[near[0]][near[1]] - low) / (high - low) >= threshold:
                seen.add(near)
                todo.append(near)
    rows, columns = [r for r, _ in seen], [c for _, c in seen]
    return min(columns), min(rows), max(columns) - min(columns) + 1, max(rows) - min(rows) + 1


@pytest.mark.parametrize("options", [{}, {"threshold": 0.2}, {"threshold": 1.0}], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_peak_box_equals_a_flood_fill(options, seed):
    ragged = torch.rand(30, 20, generator=torch.Generator().manual_seed(seed))  # has holes, corners and winding paths
    for heat_map in (_smooth_map(seed), ragged, ragged.round(decimals=1)):  # the last has several maxima
        assert peak_box(heat_map, **options) == _flood_fill_box(heat_map, **options)


@pytest.mark.parametrize("offset", [0.0, -1e4])
def test_constant_map_has_no_peak(offset):
    constant = torch.full((12, 10), offset)
    constant[5, 5] += 5e-8 * abs(offset)  # within rounding error
    assert not pointing_game(constant, [(0, 0, 10, 12)])
    assert peak_box(constant) == (0, 0, 0, 0)


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
    assert peak_box(heat_map) == (3, 0, 1, 16)
    assert pointing_game(heat_map, torch.tensor([[3, 0, 1, 1]], device=device))


@pytest.mark.parametrize(
    ("box", "other", "expected"),
    [
        ((0.1, 0.2, 0.3, 0.7), (0.1, 0.2, 0.3, 0.7), 1),
        ((0, 0, 4, 2), (9, 9, 1, 1), 0),
        ((0, 0, 4, 2), (9, 0, 1, 1), 0),
        ((0, 0, 4, 2), (2, 1, 4, 2), 2 / 14),
        ((0, 0, 4, 4), (1, 1, 2, 2), 4 / 16),  # nested
        ((1, 1, 0, 0), (1, 1, 0, 0), 0),
    ],
)
def test_box_iou_closed_forms(box, other, expected):
    assert box_iou(box, other) == pytest.approx(expected, abs=1e-15)
    assert box_iou(other, box) == box_iou(box, other)
    assert box_iou(torch.tensor(box, dtype=torch.float64), list(other)) == box_iou(box, other)


@pytest.mark.parametrize(
    "heat_map", [torch.zeros(1, 4, 4), torch.zeros(0, 4), torch.tensor([[0.0, torch.nan], [torch.inf, 1.0]])]
)
def test_bad_heat_maps_are_refused(heat_map):
    with pytest.raises(ValueError, match="heat_map must"):
        peak_box(heat_map)


@pytest.mark.parametrize("threshold", [0, 1.1, float("nan")])
def test_bad_thresholds_are_refused(threshold):
    with pytest.raises(ValueError, match="threshold must"):
        peak_box(torch.rand(4, 4), threshold=threshold)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([Box("Mass", 1.0, 2.0, 3.0, 4.0)], r"box\[1:\]"),
        ((1, 2, 3, 4), "where several are expected"),
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


@pytest.mark.parametrize("name", ["box", "other"])
def test_overlap_says_which_box_is_bad(name):
    with pytest.raises(ValueError, match=f"{name} must be four numbers"):
        box_iou(**{"box": (0, 0, 1, 1), "other": (0, 0, 1, 1), name: (1, 2, 3)})
