"""Models accepted by the commands, and `causalcxr models`."""

import json

import pytest
import timm

import causalcxr
from causalcxr import cli


@pytest.mark.parametrize(
    ("option", "said"),
    [("model=causal_resnet11", "load the model causal_resnet11: unknown"), ("device=cuda:9", "use the device cuda:9")],
)
def test_a_model_or_device_that_there_is_not_ends_the_command(run, images, option, said):
    code, out, err = run("predict", images, f"--{option}")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: cannot {said}")


def test_a_plain_model_of_timm_has_scores_and_no_heat_maps(run, images, tmp_path):
    model = timm.create_model("test_resnet", num_classes=2, in_chans=1).eval()
    calibration = causalcxr.Calibration(2.0, [0.0, 1.0])
    causalcxr.save_pretrained(model, tmp_path, label_names=["Mass", "Nodule"], calibration=calibration)
    code, out, _ = run("predict", images / "a.png", "--model", tmp_path, "--format=jsonl")
    x = causalcxr.data.preprocess(images / "a.png", causalcxr.create_model(tmp_path).pretrained_cfg)
    expected = calibration.probabilities(model(x).detach())[0].tolist()
    assert (code, json.loads(out)["positives"]) == (0, ["Mass"])
    assert list(json.loads(out)["scores"].values()) == pytest.approx(expected)
    code, _, err = run("predict", images, "--model", tmp_path, "--heatmap", tmp_path / "maps")
    assert (code, "has no heat maps" in err) == (2, True)


def test_labels_without_names_are_numbered_and_no_labels_are_an_error(run, images, monkeypatch):
    models = iter(causalcxr.create_model("causal_test_resnet", num_classes=number) for number in (3, 0))
    monkeypatch.setattr(cli, "create_model", lambda *args, **kwargs: next(models))
    out = run("predict", images / "a.png", "--model=three", "--format=csv")[1]
    assert out.startswith("path,model,label_0,label_1,label_2,positives,label_0 threshold,label_1 threshold,label_2 ")
    assert run("predict", images, "--model=none") == (2, "", "error: the model none has no labels\n")


def test_models_are_listed_with_their_weights(run, monkeypatch):
    monkeypatch.setattr(cli, "list_pretrained", lambda: ["causal_resnet18.first", "causal_resnet18.second"])
    code, out, err = run("models", "resnet1")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "causal_resnet18   causal_resnet18.first, causal_resnet18.second",
        "causal_resnet101  no published weights",
        "causal_resnet152  no published weights",
    ]
    assert run("models", "causal_*18")[1].split()[0] == "causal_resnet18"
    assert run("models")[1].count("\n") == len(causalcxr.list_models())
    assert run("models", "nothing") == (2, "", "error: no model matches 'nothing'\n")
