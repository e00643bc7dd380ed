import pytest
import torch
from torch import nn

import causalcxr
from causalcxr.bench import ConfoundedDataset, StratifiedImages, predict
from causalcxr.bench.scoring import _shares
from causalcxr.data import normalise


def linear():
    """A model with dropout, so that train and eval mode differ."""
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64 * 64, 1))


@pytest.fixture
def dataset(films):
    return ConfoundedDataset(*films, marker="letter", correlation=0.9)


def images_of(dataset):
    return torch.stack([image for image, _ in dataset])


def test_logits_are_the_models_own_in_eval_mode_for_the_call_alone(dataset):
    model = linear().eval()
    expected = model(images_of(dataset))[:, 0].detach()
    model.train()[0].eval()
    for batch_size in (64, 999):
        predictions = predict(model, dataset, batch_size=batch_size)
        torch.testing.assert_close(predictions.logits, expected)
        assert not predictions.logits.requires_grad
        assert predictions[1:] == (None,) * 4
    assert (model.training, model[0].training, model[1].training) == (True, False, True)


@pytest.mark.filterwarnings("ignore:images are")  # they are smaller than the model's input size
def test_logits_features_and_shares_of_a_causal_model_are_those_of_the_label(films):
    dataset = ConfoundedDataset(films.images[:24], films.targets[:24], marker="tube", correlation=0.75)
    model = causalcxr.create_model("causal_test_resnet").eval()
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        output = model.forward_causal((images_of(dataset) - mean) / std, need_attention=True)
    masks = torch.stack([dataset.mask(i) for i in range(24)])
    for label in (0, 4):
        predictions = predict(model.train(), dataset, label=label, batch_size=10)
        expected = [each[:, label] for each in (output.logits, output.causal, output.confounder)]
        expected += _shares(output.attention[:, label], masks)
        for given, each in zip(predictions, expected, strict=True):
            torch.testing.assert_close(given, each, atol=1e-4, rtol=1e-4, equal_nan=True)
    model.label_names = causalcxr.data.NIH_LABELS
    assert torch.equal(predict(model, dataset, label="Mass", batch_size=10).logits, predictions.logits)
    wrapped = predict(nn.DataParallel(model), dataset, label=4, prepare=lambda x: normalise(x, model.pretrained_cfg))
    torch.testing.assert_close(wrapped.logits, predictions.logits)
    assert predict(model, StratifiedImages(*films, strata=films.targets), label=0)[3:] == (None, None)  # without masks


def test_the_images_go_where_the_parameters_are(dataset):
    with torch.device("meta"):
        away = linear()

    def prepare(images):
        assert images.device.type == "meta"
        raise InterruptedError

    with pytest.raises(InterruptedError):
        predict(away, dataset, prepare=prepare)


def test_weights_that_know_another_size_are_noticed(dataset):
    model = causalcxr.create_model("causal_test_resnet", num_classes=1)
    predict(model, dataset)
    model.label_names = ["Mass"]
    with pytest.warns(UserWarning, match=r"\(64, 64\), but .* has \(96, 96\); set the dataset's image_size=") as caught:
        predict(model, dataset)
    assert caught[0].filename == __file__


def test_share_of_constructed_maps():
    masks = torch.zeros(5, 64, 64, dtype=torch.bool)
    masks[:4, :24, :16] = True  # one cell of 16 pixels, and the upper half of the cell below
    maps = torch.zeros(5, 4, 4)
    maps[0] = 1 / 16  # flat
    maps[1, 0, 0] = 1  # on the marker
    maps[2, 1, 0] = 1  # on the half-covered cell
    maps[3:, 3, 3] = 1  # off the marker; the last image has none
    share, area = _shares(5 * maps, masks)  # of any sum
    covered = 24 * 16 / 64**2
    torch.testing.assert_close(share, torch.tensor([covered, 1.0, 0.5, 0.0, torch.nan]), equal_nan=True)
    torch.testing.assert_close(area, torch.tensor([covered] * 4 + [torch.nan]), equal_nan=True)


@pytest.mark.parametrize(
    ("model", "kwargs", "match"),
    [
        (lambda x: x[:, 0, 0, :3], {}, "label="),
        (lambda x: x[:, 0, 0, :3], {"label": 3}, "got 3"),
        (lambda x: x[:, 0, 0, :3], {"label": "Mass"}, "no label_names to find 'Mass' in"),
        (lambda x: x[:1, 0, 0, :1], {}, r"B=64, but got \(1, 1\)"),
        (lambda x: x[:, 0, 0, :1] / 0 * 0, {}, "not finite"),
        (nn.DataParallel(linear()), {}, "pass its .module"),
    ],
)
def test_bad_models_are_refused(dataset, model, kwargs, match):
    with pytest.raises((TypeError, ValueError), match=match):
        predict(model, dataset, **kwargs)
