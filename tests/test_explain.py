"""Evidence and attention maps against their definitions, and overlays against the blending formula."""

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import causalcxr
from causalcxr.explain import HEAT, attention_maps, evidence_maps, overlay


def _model(**options):
    torch.manual_seed(0)
    return causalcxr.create_model("causal_test_resnet", num_classes=3, dim=16, num_heads=2, **options)


def test_evidence_is_the_gradient_times_the_encoded_map_summed_over_its_width():
    """Scaling one cell by 1 + h changes the logit by h times its evidence. The model has only what is needed."""
    torch.manual_seed(0)
    model = nn.Module()
    model.forward_features = nn.Conv2d(3, 8, 16, stride=16)
    model.head = causalcxr.CausalHead(8, 3, dim=16, num_heads=2)
    model.double().eval()
    images, h = torch.randn(2, 3, 64, 48, dtype=torch.float64), 1e-6
    encoded = model.head.feature_learning(model.forward_features(images)).detach()
    _, _, rows, columns = encoded.shape
    expected = torch.empty(2, 3, rows, columns)
    for row in range(rows):
        for column in range(columns):
            cell = torch.zeros(rows, columns, dtype=torch.float64)
            cell[row, column] = h
            with torch.no_grad():
                above, below = (model.head.decode(encoded * (1 + sign * cell)).logits for sign in (1, -1))
            expected[:, :, row, column] = ((above - below) / (2 * h)).float()
    sizes = {"size": (64, 48), "mode": "bilinear", "align_corners": False}
    maps = evidence_maps(model, images)
    torch.testing.assert_close(maps, F.interpolate(expected, **sizes), rtol=1e-4, atol=1e-6)
    assert maps.min() < 0 < maps.max()


def test_evidence_of_some_labels_is_theirs_in_the_given_order():
    model, images = _model(label_names=["Mass", "Nodule", "Edema"]), torch.randn(2, 3, 64, 64)
    expected = evidence_maps(model, images)[:, [2, 0]]
    for labels in ([2, 0], ["Edema", "Mass"]):
        torch.testing.assert_close(evidence_maps(model, images, labels), expected)
    for label in (2, "Edema", np.int64(2), torch.tensor(2)):
        torch.testing.assert_close(evidence_maps(model, images, label), expected[:, :1])


@pytest.mark.parametrize("maps", [evidence_maps, attention_maps])
def test_maps_leave_the_model_as_it_was(maps):
    model, images = _model(drop_rate=0.5).train(), torch.randn(2, 3, 64, 64)
    model.backbone.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        first, second = maps(model, images), maps(model, images)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert model.head.training
    assert not model.backbone.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_frozen_and_half_precision_models_have_evidence():
    model, images = _model().requires_grad_(False), torch.randn(2, 3, 64, 64)
    exact, rounded = evidence_maps(model, images), evidence_maps(model.bfloat16(), images.bfloat16())
    assert rounded.dtype == torch.float32
    assert float((rounded - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize("maps", [evidence_maps, attention_maps])
@pytest.mark.parametrize("model", [nn.Conv2d(1, 1, 1), timm.create_model("test_resnet")])
def test_maps_need_a_causal_model(maps, model):
    with pytest.raises(TypeError, match=r"has no \w+; pass a model from causalcxr.create_model"):
        maps(model, torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("labels", [[3], [-1], [], ["Masses"]])
def test_labels_that_do_not_exist_have_no_evidence(labels):
    with pytest.raises(ValueError, match=r"indices from 0 to 2|unknown label"):
        evidence_maps(_model(label_names=["Mass", "Nodule", "Edema"]), torch.zeros(1, 3, 64, 64), labels)


def test_labels_are_names_or_indices():
    model, images = _model(label_names=["Mass", "Nodule", "Edema"]), torch.randn(1, 3, 64, 64)
    mixed = evidence_maps(model, images, ["Edema", 1, torch.tensor(1), "Edema"])
    assert torch.equal(mixed, evidence_maps(model, images)[:, [2, 1, 1, 2]])
    with pytest.raises(TypeError, match="float"):
        evidence_maps(model, images, [1.5])
    with pytest.raises(ValueError, match="no label names to find 'Mass' in; pass indices"):
        evidence_maps(_model(), images, "Mass")


def test_attention_maps_are_the_attention_at_the_size_of_the_images():
    model, images = _model(), torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        attention = model.eval().forward_causal(images, need_attention=True).attention
    expected = F.interpolate(attention, size=(64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(attention_maps(model, images), expected)
    half = attention_maps(model.bfloat16(), images.bfloat16())
    torch.testing.assert_close(half, expected, rtol=0.1, atol=1e-3)  # the maps are still float32


def test_a_radiograph_without_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"\(B, C, H, W\), but got \(3, 64, 64\)"):
        attention_maps(_model(), torch.zeros(3, 64, 64))


def test_default_colours_rise_evenly_in_lightness():
    assert HEAT.min() >= 0
    assert HEAT.max() <= 1
    linear = np.where(HEAT <= 0.04045, HEAT / 12.92, ((HEAT + 0.055) / 1.055) ** 2.4)  # sRGB
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16  # CIELAB L*
    np.testing.assert_allclose(np.diff(lightness), 9.25, atol=0.3)


@pytest.mark.parametrize("vmax", [None, 2.5])
def test_overlay_blends_by_value(vmax):
    """Values between those of the nine colours take a colour in between."""
    image = np.array([[0.2, 0.4], [0.6, 1.0]])
    heat = np.array([[-3.0, 1.0], [2.1, 4.0]])
    expected = np.empty((2, 2, 3))
    for (i, j), v in np.ndenumerate((heat / (vmax or 4)).clip(0, 1)):
        lower = min(int(8 * v), 7)
        colour = HEAT[lower] + (8 * v - lower) * (HEAT[lower + 1] - HEAT[lower])
        expected[i, j] = (1 - 0.8 * v) * image[i, j] + 0.8 * v * colour
    result = overlay(image, heat, alpha=0.8, vmax=vmax)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, np.rint(255 * expected))


@pytest.mark.parametrize("heat", [np.zeros((4, 4)), -1 - np.eye(4)])
def test_map_without_a_positive_value_leaves_the_radiograph_unchanged(heat):
    image = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
    result = overlay(image, heat)
    np.testing.assert_array_equal(result, np.rint(255 * image[0].double().numpy())[..., None].repeat(3, -1))


@pytest.mark.parametrize("shape", [(5, 7), (40, 56)], ids=["coarser", "finer"])
def test_heat_map_of_any_resolution_peaks_in_the_right_place(shape):
    heat = np.zeros(shape)
    heat[shape[0] * 4 // 5 :, : shape[1] // 7] = 1  # lower left corner
    result = overlay(np.full((20, 28), 0.5), heat)
    assert result.shape == (20, 28, 3)
    assert (result[-1, 0] == np.rint(255 * (0.25 + 0.5 * HEAT[-1]))).all()
    assert (result[:10, 14:] == 128).all()
    np.testing.assert_array_equal(result, overlay(np.full((20, 28), 0.5), heat, vmax=heat.max()))
    np.testing.assert_array_equal(result[:, ::-1], overlay(np.full((20, 28), 0.5), heat[:, ::-1]))


def test_overlay_takes_films_and_maps_in_any_form(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (16, 12), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "film.png")
    heat = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    expected = overlay(grey, heat.detach().float().numpy())
    for film in (tmp_path / "film.png", Image.fromarray(grey), torch.from_numpy(grey / 255)[None]):
        np.testing.assert_array_equal(overlay(film, heat), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heatmap": np.zeros((14, 4, 4))}, r"heatmap must be \(h, w\)"),
        ({"heatmap": [[0.0, np.nan], [np.inf, 1.0]]}, "heatmap must be finite, .* 2 of 4"),
        ({"alpha": 1.5}, "alpha must lie"),
        ({"vmax": 0.0}, "vmax must be"),
    ],
)
def test_bad_overlays(arguments, message):
    with pytest.raises(ValueError, match=message):
        overlay(np.zeros((8, 8)), **{"heatmap": np.eye(4), **arguments})
