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


def _flood_fill_box(heat_map, threshold):
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


@pytest.mark.parametrize("threshold", [0.2, 0.6, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_peak_box_equals_a_flood_fill(threshold, seed):
    ragged = torch.rand(30, 20, generator=torch.Generator().manual_seed(seed))  # has holes, corners and winding paths
    for heat_map in (_smooth_map(seed), ragged, ragged.round(decimals=1)):  # the last has several maxima
        assert peak_box(heat_map, threshold=threshold) == _flood_fill_box(heat_map, threshold)


def test_peak_box_of_a_gaussian_is_its_width_at_the_threshold():
    rows, columns = torch.meshgrid(torch.arange(100.0), torch.arange(120.0), indexing="ij")
    heat_map = torch.exp(-((columns - 70) ** 2 / (2 * 10**2) + (rows - 40) ** 2 / (2 * 5**2)))
    # exp(-d^2 / 2 sigma^2) >= 1/2 up to d = 1.177 sigma, i.e. 11 (of 11.77) and 5 (of 5.89) pixels from the centre
    assert peak_box(heat_map) == (70 - 11, 40 - 5, 23, 11)


@pytest.mark.parametrize("offset", [0.0, 1.0, -1e4])
def test_constant_map_has_no_peak(offset):
    constant = torch.full((12, 10), offset)
    constant[5, 5] += 5e-8 * abs(offset)  # within rounding error
    assert not pointing_game(constant, [(0, 0, 10, 12)])
    assert peak_box(constant) == (0, 0, 0, 0)
    assert box_iou(peak_box(constant), (0, 0, 10, 12)) == 0


def test_pointing_game_hits_every_pixel_of_the_box_and_no_other():
    box = (3, 2, 4, 5)
    for row in range(10):
        for column in range(12):
            heat_map = torch.zeros(10, 12)
            heat_map[row, column] = 1.0
            assert pointing_game(heat_map, [box]) is (2 <= row < 7 and 3 <= column < 7)


def test_maximum_counts_as_the_centre_of_its_pixel():
    heat_map = torch.zeros(10, 12)
    heat_map[4, 6] = 1.0
    assert pointing_game(heat_map, [(6.4, 4.4, 0.2, 0.2)])
    assert pointing_game(heat_map, [(6.5, 4.5, 1, 1)])
    assert not pointing_game(heat_map, [(6.6, 4, 1, 1)])
    assert not pointing_game(heat_map, [(5.5, 4, 1, 1)])  # the box ends at the pixel centre
    assert not pointing_game(heat_map, [(6, 3.5, 1, 1)])


def test_any_of_several_boxes_will_do():
    heat_map = _smooth_map(3)
    row, column = divmod(int(heat_map.argmax()), 56)
    away = ((column + 20) % 50, (row + 15) % 35, 4, 4)
    assert not pointing_game(heat_map, [away])
    assert pointing_game(heat_map, [away, (column - 0.5, row - 0.5, 2, 2)])
    assert pointing_game(heat_map, torch.tensor([away, (column, row, 1, 1)]))
    assert pointing_game(heat_map, [Box("Nodule", column, row, 1.0, 1.0)[1:]])
    assert pointing_game(heat_map, [(-1, -1, 58, 42)])  # one pixel beyond the map on each side


def test_heat_maps_of_any_floating_type():
    heat_map = torch.zeros(16, 16, dtype=torch.bfloat16, requires_grad=True) + torch.eye(16)[3].bfloat16() / 2
    assert peak_box(heat_map) == (3, 0, 1, 16)
    assert pointing_game(heat_map, [(3, 0, 1, 1)])


@pytest.mark.parametrize("device", DEVICES[1:])
def test_heat_maps_on_another_device(device):
    heat_map = _smooth_map(1)
    assert peak_box(heat_map.to(device)) == peak_box(heat_map)
    assert pointing_game(heat_map.to(device), torch.tensor([[0, 0, 56, 40]], device=device))


@pytest.mark.parametrize(
    ("box", "other", "expected"),
    [
        ((0, 0, 4, 2), (0, 0, 4, 2), 1),
        ((0.1, 0.2, 0.3, 0.7), (0.1, 0.2, 0.3, 0.7), 1),
        ((0, 0, 4, 2), (4, 0, 4, 2), 0),  # shared edge
        ((0, 0, 4, 2), (9, 9, 1, 1), 0),
        ((0, 0, 4, 2), (2, 1, 4, 2), 2 / 14),
        ((0, 0, 4, 4), (1, 1, 2, 2), 4 / 16),  # nested
        ((0, 0, 1, 1), (0.5, -0.25, 1, 1), 0.375 / 1.625),
        ((1, 1, 0, 0), (0, 0, 4, 4), 0),
        ((1, 1, 0, 0), (1, 1, 0, 0), 0),
    ],
)
def test_box_iou_closed_forms(box, other, expected):
    assert box_iou(box, other) == pytest.approx(expected, abs=1e-15)
    assert box_iou(other, box) == box_iou(box, other)
    assert box_iou(torch.tensor(box, dtype=torch.float64), list(other)) == box_iou(box, other)


@pytest.mark.parametrize(
    ("heat_map", "error"),
    [
        ([[0.0, 1.0]], TypeError),
        (torch.zeros(4, 4, dtype=torch.int64), TypeError),
        (torch.zeros(1, 4, 4), ValueError),
        (torch.zeros(0, 4), ValueError),
        (torch.tensor([[0.0, torch.nan], [torch.inf, 1.0]]), ValueError),
    ],
)
def test_bad_heat_maps_are_refused(heat_map, error):
    for call in (lambda: peak_box(heat_map), lambda: pointing_game(heat_map, [(0, 0, 1, 1)])):
        with pytest.raises(error, match="heat_map must"):
            call()


@pytest.mark.parametrize("threshold", [0, 1.1, float("nan")])
def test_bad_thresholds_are_refused(threshold):
    with pytest.raises(ValueError, match="threshold must"):
        peak_box(torch.rand(4, 4), threshold=threshold)


FOUR_NUMBERS = [
    ((1, 2, 3), "four numbers"),
    (Box("Mass", 1.0, 2.0, 3.0, 4.0), r"box\[1:\]"),
    ((1, 2, -3, 4), "not negative"),
    ((1, float("nan"), 3, 4), "finite"),
]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        *(([box], message) for box, message in FOUR_NUMBERS),
        ([], "at least one"),
        ((1, 2, 3, 4), "a single box in a list"),
        ([(0, 0, 1, 1), (300, 2, 3, 4)], "height 8 and width 9"),
        ([(0, 0, 9, 11)], "height 8"),
        ([(-2, 0, 3, 3)], "height 8"),
    ],
)
def test_bad_boxes_are_refused_by_the_pointing_game(boxes, message):
    with pytest.raises(ValueError, match=message):
        pointing_game(torch.rand(8, 9), boxes)


@pytest.mark.parametrize(("box", "message"), FOUR_NUMBERS)
def test_bad_boxes_are_refused_by_their_overlap(box, message):
    for pair in ((box, (0, 0, 1, 1)), ((0, 0, 1, 1), box)):
        with pytest.raises(ValueError, match=message):
            box_iou(*pair)
