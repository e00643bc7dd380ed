import numpy as np
import pytest
import torch
import torch.nn.functional as F

from causalcxr.bench import MARKERS, paint


def draws(kind, height=96, width=96, number=60):
    """Opacities (number, height, width) of markers painted on black."""
    rng, black = np.random.default_rng(0), torch.zeros(1, height, width)
    return np.stack([paint(black, kind, rng)[0][0].numpy() for _ in range(number)])


@pytest.mark.parametrize("kind", MARKERS)
def test_a_pixel_is_blended_with_white_by_the_opacity_and_no_other_is_changed(kind):
    rng = np.random.default_rng(0)
    for opacity in torch.from_numpy(draws(kind, 56, 80, number=20)):
        image = torch.rand(1, 56, 80) * 0.9
        before = image.clone()
        painted, mask = paint(image, kind, rng)  # an equal generator paints the same marker
        assert torch.equal(image, before)
        torch.testing.assert_close(painted[0], (1 - opacity) * image[0] + opacity)
        assert torch.equal(mask, opacity > 0)
        assert torch.equal(painted[0][~mask], image[0][~mask])
        assert 0.001 < mask.float().mean() < 0.06


# Where the docs put the bright parts of a marker, by row and column as shares of the height and width.
PLACES = {
    "letter": lambda y, x: ((y < 0.25) | (y > 0.75)) & ((x < 0.25) | (x > 0.75)),
    "portable": lambda y, x: ((y < 0.15) | (y > 0.85)) & (x > 0.01) & (x < 0.99),
    "tube": lambda y, x: (y > 0.05) & (y < 0.95) & (x > 0.05) & (x < 0.95),
    "electrode": lambda y, x: (y > 0.15) & (y < 0.8) & (x > 0.2) & (x < 0.8),
}


@pytest.mark.parametrize("kind", MARKERS)
def test_letters_lie_in_corners_stamps_at_edges_and_tubes_and_electrodes_in_the_middle(kind):
    for opacity in draws(kind):
        rows, columns = np.nonzero(opacity > 0.9 * opacity.max())
        assert PLACES[kind]((rows + 0.5) / 96, (columns + 0.5) / 96).all()


def test_the_markers_are_those_of_the_docs():
    # Results in the docs were measured with these markers.
    weights = np.random.default_rng(0).random((96, 96))  # so that positions matter
    means = [(draws(kind) * weights).mean() for kind in MARKERS]
    assert means == pytest.approx([0.00181421, 0.00386183, 0.00612094, 0.00390879], rel=1e-5)


@pytest.mark.parametrize("kind", MARKERS)
def test_the_same_marker_at_two_resolutions(kind):
    # Thin lines are at least one pixel wide, so they weigh more at the lower resolution.
    for fine, coarse in zip(*(torch.from_numpy(draws(kind, side, side, 10)) for side in (256, 128)), strict=True):
        reduced = F.avg_pool2d(fine[None], 2)[0]
        assert np.corrcoef(reduced.flatten(), coarse.flatten())[0, 1] > 0.9


@pytest.mark.parametrize(
    ("image", "kind", "match"),
    [
        (torch.rand(1, 64, 64), "lettre", "'lettre'"),
        (torch.rand(3, 64, 64), "letter", r"\(3, 64, 64\)"),
        (255 * torch.ones(1, 64, 64), "letter", "255"),
        (torch.rand(1, 64, 64) - 1, "letter", "values from -"),
        (torch.full((1, 64, 64), torch.nan), "tube", "nan"),
        (torch.rand(1, 31, 64), "tube", "31 x 64"),
    ],
)
def test_bad_images_are_refused(image, kind, match):
    with pytest.raises(ValueError, match=match):
        paint(image, kind, np.random.default_rng(0))
