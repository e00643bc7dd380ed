"""torchxrayvision and MONAI give the pixels and the labels that `preprocess` and the files give."""

import re

import pytest
import torch
from PIL import Image

import causalcxr
from causalcxr.data import NIH_LABELS, SyntheticCXR, preprocess, read_image

pytestmark = [
    pytest.mark.integration,
    # of the reader of DICOM files that every `LoadImage` of MONAI registers
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
]


def test_torchxrayvision_by_files(example, tmp_path):
    """The films, written as an NIH release, as torchxrayvision opens it; then with a label that no model knows."""
    xrv = pytest.importorskip("torchxrayvision")
    module, made = example("torchxrayvision_data"), SyntheticCXR(6, prevalence=0.5)
    table = module.write_release(tmp_path, made)
    source = xrv.datasets.NIH_Dataset(str(tmp_path), csvpath=table, views=["PA", "AP"], unique_patients=False)
    cfg = causalcxr.create_model("causal_test_resnet").pretrained_cfg
    films = module.FromXRayVision(source, cfg)
    assert list(source.pathologies) != list(NIH_LABELS)
    assert len(films) == len(made)
    for i, (image, target) in enumerate(films[i] for i in range(len(films))):
        torch.testing.assert_close(image, preprocess(read_image(tmp_path / f"{i:08}.png"), cfg)[0], atol=1e-5, rtol=0)
        assert torch.equal(target, made.targets[i])
    xrv.datasets.relabel_dataset(["Fracture", "Mass"], source, silent=True)
    targets = torch.stack([films[i][1] for i in range(len(films))])
    mass = NIH_LABELS.index("Mass")
    assert torch.equal(targets[:, mass], made.targets[:, mass])
    assert targets.isnan().all(dim=0).tolist() == [k != mass for k in range(len(NIH_LABELS))]


def test_torchxrayvision_example(printed):
    pytest.importorskip("torchxrayvision")
    text = printed("torchxrayvision_data")
    theirs, ours = zip(*re.findall(r"^ +\d+  (\w+) +(\w+), on", text, flags=re.MULTILINE), strict=True)
    assert (list(theirs), ours) == (sorted(NIH_LABELS), NIH_LABELS)
    assert re.search(r"loss of the first step \d\.\d+$", text)


def test_monai_gives_plain_tensors(example, tmp_path):
    pytest.importorskip("monai")
    Image.new("L", (70, 80)).save(tmp_path / "film.png")
    model = causalcxr.create_model("causal_test_resnet")
    assert type(example("monai_transforms").pipeline(model)(tmp_path / "film.png")) is torch.Tensor


def test_monai_example(printed, numbers):
    pytest.importorskip("monai")
    _, as_above, resized, augmented, _ = printed("monai_transforms").splitlines()
    assert max(numbers(as_above)) < 2e-5
    assert min(numbers(resized)) > 1e-3
    assert min(numbers(augmented)) > 1e-2
