"""A model's input is what its data config says, and images unlike the training images warn."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import causalcxr
from causalcxr.data import SyntheticCXR, normalise, preprocess, read_image

CFG = {"input_size": (3, 96, 96), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


@pytest.fixture
def path(tmp_path):
    image = SyntheticCXR(1, image_size=(128, 112), seed=1)[0][0]
    Image.fromarray((image[0].numpy() * 255).astype(np.uint8)).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_values_are_those_of_the_formula(path):
    grey = read_image(path, size=96)  # as datasets do
    expected = [(grey - mean) / std for mean, std in zip(CFG["mean"], CFG["std"], strict=True)]
    assert torch.equal(preprocess(path, CFG)[0], torch.cat(expected))
    assert torch.equal(preprocess([path, Image.open(path)], CFG), preprocess(path, CFG).expand(2, -1, -1, -1))


def test_the_model_knows_its_channels_type_and_size(path):
    model = causalcxr.create_model("causal_test_resnet", in_chans=1, dtype=torch.float64)
    images = model.preprocess(path)
    assert (images.shape, images.dtype) == ((1, 1, 96, 96), torch.float64)
    torch.testing.assert_close(images, preprocess(path, model.pretrained_cfg).double())
    assert model.preprocess(path, size=(64, 80)).shape == (1, 1, 64, 80)
    with pytest.raises(ValueError, match="has no pretrained_cfg"):
        causalcxr.CausalCXR("test_resnet", dim=64).preprocess(path)


def test_one_channel_takes_the_average_of_three():
    image = torch.rand(2, 1, 8, 8)
    one = normalise(image, CFG | {"input_size": (1, 8, 8)})
    torch.testing.assert_close(one, (image - 0.4) / 0.3)
    four = normalise(image, {"input_size": (4, 8, 8), "mean": (0.5,), "std": (0.25,)})
    torch.testing.assert_close(four, ((image - 0.5) / 0.25).expand(-1, 4, -1, -1))


def test_normalising_keeps_type_and_refuses_what_is_no_grey_batch():
    assert normalise(torch.rand(1, 1, 4, 4, dtype=torch.float64), CFG).dtype == torch.float64
    for images in (torch.rand(2, 3, 8, 8), torch.rand(1, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="got torch"):
            normalise(images, CFG)
    with pytest.raises(ValueError, match="reach 255"):
        normalise(torch.full((1, 1, 4, 4), 255.0), CFG)
    with pytest.raises(ValueError, match="no image"):
        preprocess([], CFG)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((47, 60), "the image: 47x60 enlarged to 96x96"),
        ((300, 149), "300x149 pixels, an unusual shape"),
        ((149, 300), "149x300 pixels, an unusual shape"),
        ((48, 96), None),
    ],
)
def test_odd_sizes_and_shapes_warn_and_those_at_the_limits_do_not(shape, message):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        preprocess(torch.rand(shape), CFG)
    assert [warning.filename for warning in caught] == [__file__] * (message is not None)
    assert all(message in str(warning.message) for warning in caught)


def test_a_flat_image_warns_and_names_its_file(tmp_path):
    fourteen_bits = (torch.rand(128, 128).numpy() * 16383).astype(np.uint16)  # in a 16-bit file
    Image.fromarray(fourteen_bits).save(tmp_path / "dark.png")
    with pytest.warns(UserWarning, match=rf"^{tmp_path}/dark\.png: values span 0\.25 of the range"):
        preprocess(tmp_path / "dark.png", CFG)
