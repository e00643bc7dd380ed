"""Heads on frozen backbones: output of a run, and features computed only once."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import causalcxr
import train_head
from causalcxr.data import SyntheticCXR, normalise
from causalcxr.models.published import BACKBONES

pytestmark = pytest.mark.filterwarnings(
    "ignore:AUROC is undefined", "ignore:no t", "ignore:Mean of empty slice", "ignore:.*like probabilities"
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for name in ("test_resnet", "test_vit"):
        save_file(timm.create_model(name).state_dict(), folder / f"{name}.safetensors")
    return folder


def _run(weights, output, backbone, *options):
    what = [f"--output={output}", f"--backbone={backbone}", f"--weights={weights / backbone}.safetensors"]
    train_head.main(["--data=synthetic:64", *what, "--batch-size=16", "--epochs=2", "--workers=0", *options])
    return causalcxr.create_model(output).eval()


@pytest.mark.parametrize(
    ("head", "backbone", "size", "shape"),
    [
        ("causal", "test_resnet", 64, (96, 4, 4)),
        ("linear", "test_resnet", 64, (96,)),
        ("linear", "test_vit", 160, (64,)),
    ],
)
def test_a_run_is_a_model(weights, tmp_path, head, backbone, size, shape):
    """The backbone keeps its weights, and the cached features are those of the saved model."""
    model = _run(weights, tmp_path, backbone, f"--head={head}", f"--image-size={size}")
    assert isinstance(model, causalcxr.CausalCXR) == (head == "causal")
    assert model.label_names == causalcxr.data.NIH_LABELS
    assert model.pretrained_cfg["input_size"] == (3, size, size)
    assert model.calibration is not None
    theirs = load_file(weights / f"{backbone}.safetensors")
    ours = (model.backbone if head == "causal" else model).state_dict()
    kept = [name for name in ours if not name.startswith(("fc.", "head."))]
    assert all(torch.equal(ours[name], theirs[name]) for name in kept)
    (path,) = tmp_path.glob("val-*.npy")
    features = torch.from_numpy(np.load(path)).float()
    assert features.shape == (16, *shape)
    films = torch.stack([image for image, _ in SyntheticCXR(16, image_size=size, seed=1)])
    with torch.no_grad():
        maps = model.forward_features(normalise(films, model.pretrained_cfg))
        if head == "linear":
            maps = model.forward_head(maps, pre_logits=True)
        torch.testing.assert_close(features, maps, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("head", ["causal", "linear"])
def test_names_of_the_table(tmp_path, monkeypatch, head):
    """The backbone's arguments also reach the timm model: EVA-X is built with those of its row, not timm's."""
    arguments = {**BACKBONES["eva_x_tiny"].backbone_args, "embed_dim": 48, "depth": 1, "num_heads": 2}
    row = BACKBONES["eva_x_tiny"]._replace(name="tiny_eva", pixels=64, backbone_args={**arguments, "img_size": 64})
    monkeypatch.setitem(BACKBONES, "tiny_eva", row)
    network = timm.create_model(row.architecture, num_classes=0, **row.backbone_args)
    save_file(network.state_dict(), tmp_path / "tiny_eva.safetensors")
    model = _run(tmp_path, tmp_path / "run", "tiny_eva", f"--head={head}")
    assert model.pretrained_cfg["input_size"] == (3, 64, 64)
    assert model.pretrained_cfg["std"] == pytest.approx((row.std,) * 3)
    ours = (model.backbone if head == "causal" else model).norm.state_dict()
    assert ours.keys() == network.norm.state_dict().keys()


def test_features_are_computed_once(weights, tmp_path, monkeypatch, capsys):
    """A second run reads the cached file; another image size gets another file."""
    _run(weights, tmp_path, "test_resnet", "--image-size=64", "--lr=1e-4")
    first = capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(train_head, "normalise", lambda *_: pytest.fail("an image passed the backbone again"))
        _run(weights, tmp_path, "test_resnet", "--image-size=64", "--lr=1e-4")
    assert capsys.readouterr().out == first
    _run(weights, tmp_path, "test_resnet", "--image-size=96", "--head=linear")
    assert len(list(tmp_path.glob("*.npy"))) == 4
    assert not list(tmp_path.glob("*.unfinished"))


def test_other_weights_of_the_same_name_have_other_features(tmp_path, monkeypatch):
    """So do other numbers of images. The model card shows the command without local paths."""
    monkeypatch.setattr("sys.argv", ["/home/me/train_head.py", "--data=/home/me/nih", "--lr", "1e-3"])
    for seed in range(2):
        torch.manual_seed(seed)
        save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "test_resnet.safetensors")
        _run(tmp_path, tmp_path / "run", "test_resnet", "--image-size=64")
    _run(tmp_path, tmp_path / "run", "test_resnet", "--image-size=64", "--data=synthetic:32")
    assert len(list(tmp_path.glob("run/*.npy"))) == 6
    assert "\npython train_head.py --data=nih --lr 1e-3\n" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.parametrize(("head", "labels"), [("causal", "Drain"), ("linear", "Drain,Mass")])
def test_features_are_those_of_the_films_of_a_table(weights, tmp_path, head, labels):
    """Features follow the table's order and are recomputed for a changed image; one label is enough."""
    pixels = np.random.default_rng(0).integers(0, 255, (41, 32, 32), dtype=np.uint8)
    for i in range(40):
        Image.fromarray(pixels[i]).save(tmp_path / f"{i}.png")
    rows = [f"{i}.png,p{i // 2},{','.join(str(i % 2) for _ in labels.split(','))}" for i in range(40)]
    options = (f"--data={tmp_path / 'films.csv'}", f"--head={head}", "--image-size=64", "--lr=0.1")
    kept = []
    for order in (1, -1):
        (tmp_path / "films.csv").write_text("\n".join([f"path,patient,{labels}", *rows[::order]]))
        model = _run(weights, tmp_path / "run", "test_resnet", *options)
        kept.append(set(tmp_path.glob("run/train-*.npy")))
    assert model.label_names == tuple(labels.split(","))
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, len(model.label_names))
    [first], [second] = kept[0], kept[1] - kept[0]
    np.testing.assert_allclose(np.load(second), np.load(first)[::-1], atol=1e-2)
    Image.fromarray(pixels[40]).save(tmp_path / "0.png")
    _run(weights, tmp_path / "run", "test_resnet", *options)
    assert len(set(tmp_path.glob("run/*.npy"))) == 6
