"""Borrowed regions: where they lie, how often images borrow and from which image."""

import pytest
import torch

from causalcxr import BorrowRegions
from causalcxr.objectives import borrow_regions

REGIONS = ["boxes", "thorax"]


def shades(batch, size=32):
    """Return images (B, 1, size, size), each of a constant shade of its own."""
    return torch.arange(batch, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, size, size).contiguous()


def borrow(region, images, seed=0, **options):
    return BorrowRegions(region, **options)(images, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("region", REGIONS)
def test_every_image_borrows_from_one_other_and_lends_to_one(region, monkeypatch):
    monkeypatch.setattr(borrow_regions, "SOFTNESS", 1e-6)
    for seed in range(20):
        output = borrow(region, shades(5), seed, probability=1.0)
        lenders = []
        for i, image in enumerate(output):
            shown = image[image == image.round()]  # ignores a stray pixel on the edge of an ellipse
            (lender,) = set(shown.unique().tolist()) - {float(i)}
            assert (image == i).any()
            lenders.append(lender)
        assert sorted(lenders) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("region", REGIONS)
def test_the_generator_alone_decides(region):
    first, other, *again = (borrow(region, shades(4), seed) for seed in (1, 2, *[1] * 10))
    assert all(torch.equal(each, first) for each in again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("region", REGIONS)
def test_leaves_images_alone_in_evaluation_alone_and_at_probability_zero(region):
    images = torch.rand(3, 1, 8, 8)
    assert BorrowRegions(region).eval()(images) is images
    torch.testing.assert_close(BorrowRegions(region)(images[:1]), images[:1], rtol=0, atol=0)
    assert torch.equal(BorrowRegions(region, probability=0.0)(images), images)


def test_probability_is_the_share_of_images_that_borrow():
    output = borrow("boxes", shades(4000, size=8), probability=0.3, num_boxes=1, size=(0.5, 0.5))
    changed = (output != shades(4000, size=8)).flatten(1).any(dim=1)
    assert changed.float().mean() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("size", [0.25, 0.5, 1.0])
def test_one_box_has_the_size_that_was_asked_for(size):
    images = shades(3, size=64)
    taken = (borrow("boxes", images, probability=1.0, num_boxes=1, size=(size, size)) != images)[:, 0]
    for mask in taken:
        rows, cols = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        assert int(mask.sum()) == len(rows) * len(cols)  # a full rectangle
        assert int(rows.max() - rows.min()) + 1 == len(rows) == pytest.approx(64 * size, abs=1)
        assert int(cols.max() - cols.min()) + 1 == len(cols) == pytest.approx(64 * size, abs=1)


@pytest.mark.parametrize("softness", [1e-6, 0.2])
def test_thorax_is_an_ellipse_in_the_middle_with_a_soft_border(softness, monkeypatch):
    monkeypatch.setattr(borrow_regions, "SOFTNESS", softness)
    monkeypatch.setattr(borrow_regions, "SHIFT", 0.0)
    images = torch.zeros(2, 1, 60, 100)
    images[1] = 1.0
    output = borrow("thorax", images, probability=1.0, size=(0.8, 0.8))
    y, x = (torch.arange(1 - length, length, 2) / length for length in (60, 100))  # -1 to 1, border to border
    radius = (x.square() + y.square()[:, None]).sqrt() / 0.8
    kept = ((1 - radius) / softness + 0.5).clamp(0, 1)
    torch.testing.assert_close(output[:, 0], torch.stack([1 - kept, kept]), atol=1e-5, rtol=0)


def test_keeps_dtype_and_passes_gradients():
    images = torch.rand(4, 2, 16, 16, dtype=torch.float16, requires_grad=True)
    output = borrow("thorax", images, probability=1.0)
    assert output.dtype == torch.float16
    output.sum().backward()
    total = images.grad.float().sum(dim=0)  # the weights in each output pixel sum to 1
    torch.testing.assert_close(total, torch.full((2, 16, 16), 4.0), atol=5e-2, rtol=0)


X = torch.rand(2, 1, 8, 8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: BorrowRegions("heart"), ValueError, "'thorax', but got 'heart'"),
        (lambda: BorrowRegions(probability=1.5), ValueError, "but got 1.5"),
        (lambda: BorrowRegions(num_boxes=0), ValueError, "a positive integer, but got 0"),
        (lambda: BorrowRegions(size=(0.5, 0.2)), ValueError, "a range within"),
        (lambda: BorrowRegions()(X[0]), ValueError, "images must have shape"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
