"""The pixels that a model sees: the same from a file, a tensor, a data set and the training scripts."""

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import causalcxr
import scoring
from causalcxr.data import SyntheticCXR, normalise_for, preprocess, read_image
from causalcxr.data.preprocessing import normalise

CFG = {"input_size": (3, 96, 96), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


@pytest.fixture(scope="module")
def model() -> causalcxr.CausalCXR:
    return causalcxr.create_model("causal_test_resnet").eval()


@pytest.fixture
def path(tmp_path):
    image = SyntheticCXR(1, image_size=(128, 112), seed=1)[0][0]
    Image.fromarray((image[0].numpy() * 255).astype(np.uint8)).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_values_are_those_of_the_formula(path):
    grey = read_image(path, size=96)
    for channel, (mean, std) in enumerate(zip(CFG["mean"], CFG["std"], strict=True)):
        torch.testing.assert_close(preprocess(path, CFG)[0, channel], (grey[0] - mean) / std)


def test_files_tensors_and_open_files_give_the_same_pixels(path):
    expected = preprocess(path, CFG)
    assert expected.dtype == torch.float32
    assert torch.equal(preprocess(str(path), CFG), expected)
    assert torch.equal(preprocess(read_image(path), CFG), expected)
    assert torch.equal(preprocess(read_image(path)[0].double(), CFG), expected)
    with path.open("rb") as file:
        assert torch.equal(preprocess(file, CFG), expected)


def test_the_model_and_the_training_scripts_see_the_same_pixels(path, model):
    trained_on = scoring.prepare(read_image(path, size=96).unsqueeze(0), model)  # as a data set reads it
    assert torch.equal(model.preprocess(path), trained_on)


def test_the_model_knows_its_channels_type_and_size(path):
    model = causalcxr.create_model("causal_test_resnet", in_chans=1, dtype=torch.float64).eval()
    images = model.preprocess(path)
    assert (images.shape, images.dtype) == ((1, 1, 96, 96), torch.float64)
    assert model(images).shape == (1, 14)
    assert model.preprocess(path, size=64).shape == (1, 1, 64, 64)
    assert model.preprocess(path, size=(64, 80)).shape == (1, 1, 64, 80)


def test_a_model_without_a_config_is_refused(path):
    with pytest.raises(ValueError, match=r"has no pretrained_cfg.*causalcxr\.create_model"):
        causalcxr.CausalCXR("test_resnet", dim=64).preprocess(path)


def test_one_channel_takes_the_average_of_three():
    image = torch.rand(2, 1, 8, 8)
    one = normalise(image, CFG | {"input_size": (1, 8, 8)})
    torch.testing.assert_close(one, (image - 0.4) / 0.3)
    four = normalise(image, {"input_size": (4, 8, 8), "mean": (0.5,), "std": (0.25,)})
    torch.testing.assert_close(four, ((image - 0.5) / 0.25).expand(-1, 4, -1, -1))


def test_normalising_keeps_type_and_refuses_colour():
    assert normalise(torch.rand(1, 1, 4, 4, dtype=torch.float64), CFG).dtype == torch.float64
    with pytest.raises(ValueError, match=r"images must have shape \(B, C, H, W\), C=1, but got \(2, 3, 8, 8\)"):
        normalise(torch.rand(2, 3, 8, 8), CFG)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.rand(1, 128, 128) * 255, ValueError, r"image must lie in \[0, 1\].*values from .* to 2.*divide 8-bit"),
        (torch.randn(1, 128, 128), ValueError, r"image must lie in \[0, 1\], before normalisation, but has values"),
        (torch.full((1, 128, 128), torch.nan), ValueError, r"image must lie in \[0, 1\].*nan"),
        (torch.zeros(1, 0, 128), ValueError, r"image must lie in \[0, 1\].*no pixels"),
        (torch.zeros(128, 128, dtype=torch.uint8), TypeError, r"image must be a floating-point.*torch\.uint8"),
        (torch.rand(3, 128, 128), ValueError, r"image must have shape \(C, H, W\), C=1, but got \(3, 128, 128\)"),
        (torch.rand(2, 1, 128, 128), ValueError, r"image must have shape \(C, H, W\), C=1, but got \(2, 1, 128"),
        (np.zeros((128, 128)), TypeError, "expected a path or a file open in binary mode"),
    ],
)
def test_images_of_another_kind_are_refused(image, error, message):
    with pytest.raises(error, match=message):
        preprocess(image, CFG)


def test_sizes_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="size must be an integer or"):
        preprocess(torch.rand(1, 128, 128), CFG, size="12")
    with pytest.raises(ValueError, match="size must be at least 1 pixel"):
        preprocess(torch.rand(1, 128, 128), CFG, size=0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((47, 60), "the image: 47x60 pixels for 96x96; the model was not trained on such images"),
        ((300, 149), "300x149 pixels, an unusual shape"),
        ((149, 300), "149x300 pixels, an unusual shape"),
    ],
)
def test_odd_sizes_and_shapes_warn(shape, message):
    with pytest.warns(UserWarning, match=message):
        preprocess(torch.rand(shape), CFG)


def test_sizes_and_shapes_at_the_limits_do_not_warn():
    for shape in [(48, 60), (300, 150), (48, 96)]:
        preprocess(torch.rand(shape), CFG)


def test_a_flat_image_warns_and_names_its_file(tmp_path):
    twelve_bits = (torch.rand(128, 128).numpy() * 4095).astype(np.uint16)  # in a file of sixteen
    Image.fromarray(twelve_bits).save(tmp_path / "dark.png")
    with pytest.warns(
        UserWarning, match=rf"^{tmp_path}/dark\.png: values span 0\.062 of the range from black to white"
    ):
        preprocess(tmp_path / "dark.png", CFG)


def test_normalises_by_the_models_own_numbers():
    images = torch.rand(2, 1, 8, 8)
    cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.3)}
    colour = normalise_for(SimpleNamespace(pretrained_cfg=cfg))(images)
    torch.testing.assert_close(colour[:, 2:], (images - 0.3) / 0.3)
    assert colour.shape == (2, 3, 8, 8)
    grey = normalise_for(SimpleNamespace(pretrained_cfg=cfg, in_chans=1))(images)
    torch.testing.assert_close(grey, (images - 0.4) / 0.2)
    assert normalise_for(lambda x: x)(images) is images
    assert normalise_for(timm.create_model("test_resnet", in_chans=1))(images).shape == (2, 1, 8, 8)
    with pytest.raises(
        ValueError, match="the model takes 4 channels, but its pretrained_cfg has a mean of 3; give `prep"
    ):
        normalise_for(SimpleNamespace(pretrained_cfg=cfg, in_chans=4))
