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
    """Folder with weights of two models of timm, and of a small EVA-X, whose arguments are not timm's defaults."""
    folder, published = tmp_path_factory.mktemp("weights"), BACKBONES["eva_x_tiny"]
    arguments = {**published.backbone_args, "img_size": 64, "embed_dim": 48, "depth": 1, "num_heads": 2}
    networks = {name: timm.create_model(name) for name in ("test_resnet", "test_vit")}
    networks["tiny_eva"] = timm.create_model(published.architecture, num_classes=0, **arguments)
    for name, network in networks.items():
        save_file(network.state_dict(), folder / f"{name}.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, "tiny_eva", published._replace(name="tiny_eva", pixels=64, backbone_args=arguments))
        yield folder


def _run(weights, output, backbone="test_resnet", *options):
    what = [f"--output={output}", f"--backbone={backbone}", f"--weights={weights / backbone}.safetensors"]
    what += ["--image-size=64"] if backbone == "test_resnet" else []  # 160 by default
    train_head.main(["--data=synthetic:64", *what, "--batch-size=16", "--epochs=2", "--workers=0", *options])
    return causalcxr.create_model(output).eval()


@pytest.mark.parametrize(
    ("head", "backbone", "size", "shape"),
    [
        ("causal", "test_resnet", 64, (96, 4, 4)),
        ("linear", "test_resnet", 64, (96,)),
        ("linear", "test_vit", 160, (64,)),
        ("causal", "tiny_eva", 64, (48, 4, 4)),
        ("linear", "tiny_eva", 64, (48,)),
    ],
)
def test_a_run_is_a_model(weights, tmp_path, monkeypatch, head, backbone, size, shape):
    """The backbone keeps its weights, the cached features are those of the model, and the card has no local paths."""
    monkeypatch.setattr("sys.argv", ["/home/me/train_head.py", "--data=/home/me/nih", "--lr", "1e-3"])
    model = _run(weights, tmp_path, backbone, f"--head={head}")
    assert isinstance(model, causalcxr.CausalCXR) == (head == "causal")
    assert model.label_names == causalcxr.data.NIH_LABELS
    assert model.pretrained_cfg["input_size"] == (3, size, size)
    assert model.calibration is not None
    assert "\npython train_head.py --data=nih --lr 1e-3\n" in (tmp_path / "README.md").read_text()
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


def test_features_are_computed_once(weights, tmp_path, monkeypatch, capsys):
    """A second run reads them. Those of other weights, images, sizes or heads differ, and no model is overwritten."""
    features = f"--features={tmp_path / 'features'}"
    _run(weights, tmp_path / "run", "test_resnet", features)
    first = capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(train_head, "normalise", lambda *_: pytest.fail("an image passed the backbone again"))
        _run(weights, tmp_path / "again", "test_resnet", features)
    assert capsys.readouterr().out == first
    theirs = tmp_path / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), theirs)
    for number, option in enumerate((f"--weights={theirs}", "--data=synthetic:32", "--image-size=96", "--head=linear")):
        _run(weights, tmp_path / str(number), "test_resnet", option, features)
        assert len([*(tmp_path / "features").glob("*.npy")]) == 2 * (number + 2)
    with pytest.raises(SystemExit, match="holds a model: use another --output"):
        _run(weights, tmp_path / "run")
    assert sorted(path.suffix for path in (tmp_path / "run").iterdir()) == [".json", ".md", ".safetensors"]


def test_features_are_those_of_the_films_of_a_table(weights, tmp_path):
    """Features follow the table's order, and a changed image has others. One label is enough."""
    pixels = np.random.default_rng(0).integers(0, 255, (41, 32, 32), dtype=np.uint8)
    for i in range(40):
        Image.fromarray(pixels[i]).save(tmp_path / f"{i}.png")
    rows, kept = [f"{i}.png,p{i // 2},{i % 2}" for i in range(40)], []
    options = ("test_resnet", f"--data={tmp_path / 'films.csv'}", "--lr=0.1")
    for order in (1, -1):
        (tmp_path / "films.csv").write_text("\n".join(["path,patient,Drain", *rows[::order]]))
        model = _run(weights, tmp_path / f"run{order}", *options)
        kept.append(np.load(*tmp_path.glob(f"run{order}/train-*.npy")))
    assert model.label_names == ("Drain",)
    np.testing.assert_allclose(kept[1], kept[0][::-1], atol=1e-2)
    Image.fromarray(pixels[40]).save(tmp_path / "0.png")
    _run(weights, tmp_path / "changed", *options, f"--features={tmp_path / 'run-1'}")
    assert len([*(tmp_path / "run-1").glob("train-*.npy")]) == 2
    (tmp_path / "films.csv").write_text("\n".join(["path,patient,Drain", *rows[:20]]))
    with pytest.raises(SystemExit, match=r"cannot train with these options: .* unknown label 'nothing'"):
        _run(weights, tmp_path / "none", *options, "--labels", "nothing")
    with pytest.raises(SystemExit, match="validation needs 2 patients: increase --val-fraction"):
        _run(weights, tmp_path / "few", *options)
    _run(weights, tmp_path / "few", *options, "--val-fraction=0.3")
