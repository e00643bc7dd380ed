"""Attention maps against their definition, and overlays against the blending formula."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import causalcxr
from causalcxr.explain import HEAT, attention_maps, overlay
from causalcxr.outputs import CausalOutput


class FixedAttention(nn.Module):
    """A model whose attention is given; notes the state in which it was called."""

    def __init__(self, attention: Tensor | None) -> None:
        super().__init__()
        self.attention = attention
        self.scale = nn.Parameter(torch.ones(()))
        self.frozen = nn.BatchNorm2d(1).eval()
        self.trained = nn.Dropout()
        self.seen: list[tuple[bool, bool, bool]] = []

    def forward_causal(
        self, x: Tensor, confounders: Tensor | None = None, need_attention: bool = False
    ) -> CausalOutput:
        self.seen.append((self.training or self.trained.training, torch.is_grad_enabled(), need_attention))
        features = x.new_zeros(len(x), 1, 1)
        attention = None if self.attention is None else self.attention * self.scale
        return CausalOutput(features[..., 0], features[..., 0], features, features, features, attention)


def _softmax_maps(b: int = 2, k: int = 3, h: int = 4, w: int = 5) -> Tensor:
    logits = torch.randn(b, k, h * w, generator=torch.Generator().manual_seed(0)) * 2
    return logits.softmax(-1).unflatten(-1, (h, w))


def test_maps_at_the_resolution_of_the_tokens_are_attention_and_its_normalised_complement():
    attention = _softmax_maps()
    maps = attention_maps(FixedAttention(attention), torch.zeros(2, 1, 4, 5))
    torch.testing.assert_close(maps.causal, attention)
    torch.testing.assert_close(maps.confounding, (1 - attention) / 19)
    for part in maps:
        torch.testing.assert_close(part.sum((2, 3)), torch.ones(2, 3))
    assert maps.confounding.max() <= 1 / 19  # nearly flat, whatever the attention


def test_maps_are_interpolated_bilinearly_to_the_images():
    attention = _softmax_maps(h=2, w=2)
    maps = attention_maps(FixedAttention(attention), torch.zeros(2, 1, 4, 8))
    assert maps.causal.shape == maps.confounding.shape == (2, 3, 4, 8)
    # Half-pixel centres: the second of four rows lies a quarter of the way from the first token to the second one.
    rows = torch.tensor([0.0, 0.25, 0.75, 1.0])
    columns = torch.tensor([0.0, 0.0, 0.125, 0.375, 0.625, 0.875, 1.0, 1.0])
    left, right = (torch.lerp(attention[..., :1, i, None], attention[..., 1:, i, None], rows[:, None]) for i in (0, 1))
    torch.testing.assert_close(maps.causal, torch.lerp(left, right, columns))
    complement = (1 - attention) / 3
    left, right = (
        torch.lerp(complement[..., :1, i, None], complement[..., 1:, i, None], rows[:, None]) for i in (0, 1)
    )
    torch.testing.assert_close(maps.confounding, torch.lerp(left, right, columns))


def test_model_evaluates_without_gradient_and_gets_its_flags_back():
    model = FixedAttention(_softmax_maps()).train()
    model.frozen.eval()
    maps = attention_maps(model, torch.zeros(2, 1, 8, 8))
    assert model.seen == [(False, False, True)]
    assert not maps.causal.requires_grad
    assert (model.training, model.trained.training, model.frozen.training) == (True, True, False)


def test_flags_come_back_after_an_error():
    model = FixedAttention(None).train()
    model.frozen.eval()
    with pytest.raises(ValueError, match=r"FixedAttention\.forward_causal.* gave no attention"):
        attention_maps(model, torch.zeros(2, 1, 8, 8))
    assert (model.training, model.frozen.training) == (True, False)


def test_half_precision_attention_gives_float32_maps():
    attention = _softmax_maps()
    maps = attention_maps(FixedAttention(attention.bfloat16()), torch.zeros(2, 1, 4, 5))
    assert maps.causal.dtype == maps.confounding.dtype == torch.float32
    torch.testing.assert_close(maps.causal, attention, rtol=1e-2, atol=0)


def test_maps_of_a_registered_model():
    model = causalcxr.create_model("causal_test_resnet").train()
    images = torch.randn(2, 3, 64, 96)
    maps = attention_maps(model, images)
    assert maps.causal.shape == maps.confounding.shape == (2, model.num_classes, 64, 96)
    assert model.training
    torch.testing.assert_close(attention_maps(model, images).causal, maps.causal)  # nothing random, no statistics moved
    with torch.no_grad():
        attention = model.eval().forward_causal(images, need_attention=True).attention
    assert maps.causal.amax() <= attention.amax() + 1e-6
    num_tokens = attention[0, 0].numel()
    torch.testing.assert_close(maps.confounding * (num_tokens - 1), 1 - maps.causal)


def test_model_without_forward_causal():
    with pytest.raises(TypeError, match=r"Conv2d has no forward_causal\(images, need_attention=True\).*create_model"):
        attention_maps(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(1, 8, 8), ValueError, r"\(B, C, H, W\), but got \(1, 8, 8\)"),
        (np.zeros((1, 1, 8, 8)), TypeError, "floating-point tensor.*got ndarray"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), TypeError, "torch.uint8"),
    ],
)
def test_bad_images(images, error, message):
    with pytest.raises(error, match=message):
        attention_maps(FixedAttention(_softmax_maps()), images)


def test_single_token_has_no_complement():
    with pytest.raises(ValueError, match="images of 32x16 give a feature map of one token"):
        attention_maps(FixedAttention(torch.ones(1, 1, 1, 1)), torch.zeros(1, 1, 32, 16))


def _lightness(colours: np.ndarray) -> np.ndarray:
    """CIELAB L* of sRGB colours."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    return 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16


def test_default_colours_rise_evenly_in_lightness():
    assert HEAT.min() >= 0
    assert HEAT.max() <= 1
    np.testing.assert_allclose(np.diff(_lightness(HEAT)), 9.25, atol=0.3)


def test_overlay_blends_by_value():
    image = np.array([[0.2, 0.4], [0.6, 1.0]])
    heat = np.array([[-3.0, -1.0], [1.0, 5.0]])  # scaled: 0, 1/4, 1/2, 1
    colours = [[0, 0, 1], [1, 0, 0]]
    expected = np.empty((2, 2, 3))
    for (i, j), v in np.ndenumerate((heat + 3) / 8):
        expected[i, j] = (1 - 0.8 * v) * image[i, j] + 0.8 * v * np.array([v, 0, 1 - v])
    result = overlay(image, heat, alpha=0.8, colormap=colours)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, np.rint(255 * expected))


def test_overlay_interpolates_between_colours():
    ramp = np.linspace(0, 1, 33)[None]  # every fourth value lies on one of nine colours
    result = overlay(np.zeros((1, 33)), ramp, alpha=1.0)[0] / 255
    np.testing.assert_allclose(result[32], HEAT[-1], atol=0.5 / 255)
    np.testing.assert_allclose(result[16], 0.5 * HEAT[4], atol=0.5 / 255)
    np.testing.assert_allclose(result[18], 18 / 32 * (HEAT[4] + HEAT[5]) / 2, atol=0.5 / 255)


@pytest.mark.parametrize("value", [0.0, 1 / 256, -7.0])
def test_flat_map_leaves_the_radiograph_unchanged(value):
    image = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
    rounding = np.random.default_rng(0).uniform(-1e-7, 1e-7, size=(4, 4))
    result = overlay(image, value * (1 + rounding))
    np.testing.assert_array_equal(result, np.rint(255 * image[0].double().numpy())[..., None].repeat(3, -1))


def test_alpha_zero_leaves_the_radiograph_unchanged():
    image = np.random.default_rng(0).random((8, 8))
    np.testing.assert_array_equal(overlay(image, np.eye(4), alpha=0)[..., 1], np.rint(255 * image))


@pytest.mark.parametrize("shape", [(5, 7), (40, 56)], ids=["coarser", "finer"])
def test_heat_map_of_any_resolution_peaks_in_the_right_place(shape):
    heat = np.zeros(shape)
    heat[shape[0] * 4 // 5 :, : shape[1] // 7] = 1  # lower left corner
    result = overlay(np.full((20, 28), 0.5), heat, colormap=[[0, 0, 0], [1, 1, 1]])
    assert result.shape == (20, 28, 3)
    assert result[-1, 0, 0] == 191  # halfway from grey to white
    assert (result[:10, 14:] == 128).all()


def test_overlay_takes_tensors_and_arrays_alike():
    generator = torch.Generator().manual_seed(0)
    image, heat = torch.rand(1, 16, 12, generator=generator), torch.rand(4, 3, generator=generator).requires_grad_()
    expected = overlay(image[0].numpy(), heat.detach().numpy())
    np.testing.assert_array_equal(overlay(image, heat), expected)
    half = heat.detach().bfloat16()
    np.testing.assert_array_equal(overlay(image, half), overlay(image, half.float().numpy()))


def test_overlay_of_a_real_radiograph_is_a_picture(shared_data, tmp_path):
    file = sorted((shared_data / "nih-1024" / "images").glob("*.png"))[0]
    with Image.open(file) as picture:
        grey = np.asarray(picture.convert("L"))
    result = overlay(grey / 255, np.outer(np.hanning(16), np.hanning(16)))
    Image.fromarray(result).save(tmp_path / "overlay.png")
    with Image.open(tmp_path / "overlay.png") as saved:
        assert (saved.mode, saved.size) == ("RGB", grey.shape[::-1])
    np.testing.assert_array_equal(result[0], grey[0, :, None].repeat(3, 1))  # the map is zero along its border
    assert (result[512, 512] != grey[512, 512]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": np.zeros((3, 8, 8))}, r"one grey radiograph, \(1, H, W\) or \(H, W\), got \(3, 8, 8\)"),
        ({"image": np.zeros((0, 8))}, r"got \(0, 8\)"),
        (
            {"image": np.full((8, 8), 200)},
            r"image must lie in \[0, 1\], got values from 200 to 200.*before normalisation",
        ),
        ({"image": np.linspace(-2, 2, 64).reshape(8, 8)}, r"got values from -2 to 2.*divide 8-bit values by 255"),
        ({"image": np.full((8, 8), np.nan)}, "got values from nan to nan"),
        ({"heatmap": np.zeros((14, 4, 4))}, r"heatmap must be \(h, w\).* got \(14, 4, 4\)"),
        ({"heatmap": [[0.0, np.nan], [np.inf, 1.0]]}, "heatmap must be finite, got NaN or infinity in 2 of 4"),
        ({"alpha": 1.5}, r"alpha must lie in \[0, 1\], got 1.5"),
        ({"colormap": [[0, 0, 0]]}, r"colormap must be \(M, 3\) with at least two colours, got \(1, 3\)"),
        ({"colormap": np.zeros((9, 4))}, r"got \(9, 4\)"),
        ({"colormap": [[0, 0, 0], [255, 255, 255]]}, r"colormap must lie in \[0, 1\].*divide 8-bit colours by 255"),
    ],
)
def test_bad_overlays(arguments, message):
    given = {"image": np.zeros((8, 8)), "heatmap": np.eye(4), **arguments}
    with pytest.raises(ValueError, match=message):
        overlay(given.pop("image"), given.pop("heatmap"), **given)
