"""torchxrayvision and MONAI give the pixels and the labels that `preprocess` and the files give."""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import causalcxr
from causalcxr.data import NIH_LABELS, SyntheticCXR, preprocess, read_image

pytestmark = pytest.mark.integration

# Of the reader of DICOM files that every `LoadImage` registers.
quiet_monai = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")


def nih_dataset(module: ModuleType, folder: Path, films: SyntheticCXR) -> Any:
    """The films, written as an NIH release, as torchxrayvision opens it."""
    import torchxrayvision as xrv

    table = module.write_release(folder, films)
    return xrv.datasets.NIH_Dataset(str(folder), csvpath=table, views=["PA", "AP"], unique_patients=False)


def test_torchxrayvision_by_files(example: Callable[[str], ModuleType], tmp_path: Path) -> None:
    pytest.importorskip("torchxrayvision")
    module = example("torchxrayvision_data")
    made = SyntheticCXR(6, prevalence=0.3)
    source = nih_dataset(module, tmp_path, made)
    cfg = causalcxr.create_model("causal_test_resnet").pretrained_cfg
    films = module.FromXRayVision(source, cfg)
    assert list(source.pathologies) != list(NIH_LABELS)
    assert len(films) == len(made)
    for i, (image, target) in enumerate(films[i] for i in range(len(films))):
        torch.testing.assert_close(image, preprocess(read_image(tmp_path / f"{i:08}.png"), cfg)[0], atol=1e-5, rtol=0)
        assert torch.equal(target, made.targets[i])


def test_torchxrayvision_label_that_is_not_there(example: Callable[[str], ModuleType], tmp_path: Path) -> None:
    xrv = pytest.importorskip("torchxrayvision")
    module = example("torchxrayvision_data")
    made = SyntheticCXR(6, prevalence=0.5)
    source = nih_dataset(module, tmp_path, made)
    xrv.datasets.relabel_dataset(["Fracture", "Mass"], source, silent=True)  # of which the model knows one
    films = module.FromXRayVision(source, causalcxr.create_model("causal_test_resnet").pretrained_cfg)
    targets = torch.stack([films[i][1] for i in range(len(films))])
    mass = NIH_LABELS.index("Mass")
    assert torch.equal(targets[:, mass], made.targets[:, mass])
    assert targets.isnan().all(dim=0).tolist() == [k != mass for k in range(len(NIH_LABELS))]
    logits = torch.randn(6, len(NIH_LABELS))
    loss = causalcxr.losses.classification_loss(logits, targets)
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(logits[:, mass], targets[:, mass]))


def test_torchxrayvision_example(printed: Callable[[str], str]) -> None:
    xrv = pytest.importorskip("torchxrayvision")
    text = printed("torchxrayvision_data")
    theirs, ours = zip(*re.findall(r"^ +\d+  (\w+) +(\w+), on", text, flags=re.MULTILINE), strict=True)
    assert list(theirs) == sorted(NIH_LABELS)
    assert ours == NIH_LABELS
    assert set(NIH_LABELS) < set(xrv.datasets.default_pathologies)
    assert re.search(r"loss of the first step \d\.\d+$", text)


def write_film(path: Path, height: int, width: int) -> Path:
    image, _ = SyntheticCXR(1, image_size=(height, width), prevalence=0.5)[0]
    Image.fromarray((255 * image[0]).round().byte().numpy()).save(path)
    return path


@quiet_monai
@pytest.mark.parametrize("size", [(200, 240), (256, 190), (96, 96), (70, 80)])
def test_monai_gives_the_pixels_of_preprocess(
    example: Callable[[str], ModuleType], tmp_path: Path, size: tuple[int, int]
) -> None:
    pytest.importorskip("monai")
    model = causalcxr.create_model("causal_test_resnet").eval()
    film = write_film(tmp_path / "film.png", *size)
    image, expected = example("monai_transforms").pipeline(model)(film), model.preprocess(film)
    assert type(image) is Tensor
    torch.testing.assert_close(image[None], expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(model(image[None]), model(expected), atol=1e-5, rtol=1e-4)


@quiet_monai
def test_monai_differs_where_the_example_says_so(example: Callable[[str], ModuleType], tmp_path: Path) -> None:
    transforms = pytest.importorskip("monai.transforms")
    model = causalcxr.create_model("causal_test_resnet")
    film = write_film(tmp_path / "film.png", 200, 240)
    expected = model.preprocess(film)[0]
    pipeline = example("monai_transforms").pipeline
    _, *others = pipeline(model).transforms
    swapped = transforms.Compose([transforms.LoadImage(reader="PILReader", ensure_channel_first=True), *others])(film)
    torch.testing.assert_close(swapped.transpose(1, 2), expected, atol=2e-5, rtol=0)
    assert (swapped - expected).abs().max() > 0.5
    resized = pipeline(model, resize=transforms.Resize((96, 96)))(film)
    assert (resized - expected).abs().max() > 0.05


@quiet_monai
def test_monai_example(printed: Callable[[str], str], numbers: Callable[[str], list[float]]) -> None:
    pytest.importorskip("monai")
    _, as_above, resized, augmented, _ = printed("monai_transforms").splitlines()
    assert max(numbers(as_above)) < 2e-5
    assert min(numbers(resized)) > 1e-3
    assert min(numbers(augmented)) > 1e-2
