import pytest
import torch
from torch import nn

import causalcxr
from causalcxr.bench import ConfoundedDataset, predict
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
        logits = predict(model, dataset, batch_size=batch_size)
        torch.testing.assert_close(logits, expected)
        assert not logits.requires_grad
    assert (model.training, model[0].training, model[1].training) == (True, False, True)


@pytest.mark.filterwarnings("ignore:images are")  # they are smaller than the model's input size
def test_logits_are_those_of_the_label(dataset):
    model = causalcxr.create_model("causal_test_resnet").eval()
    with torch.no_grad():
        expected = model(normalise(images_of(dataset), model.pretrained_cfg))
    for label in (0, 4):
        torch.testing.assert_close(predict(model, dataset, label=label), expected[:, label], atol=1e-4, rtol=1e-4)
    wrapped = predict(nn.DataParallel(model), dataset, label=4, prepare=lambda x: normalise(x, model.pretrained_cfg))
    torch.testing.assert_close(wrapped, expected[:, 4], atol=1e-4, rtol=1e-4)
    model.label_names = causalcxr.data.NIH_LABELS
    assert torch.equal(predict(model, dataset, label="Mass"), predict(model, dataset, label=4))


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


@pytest.mark.parametrize(
    ("model", "kwargs", "match"),
    [
        (lambda x: x[:, 0, 0, :3], {}, "label="),
        (lambda x: x[:, 0, 0, :3], {"label": 3}, "got 3"),
        (lambda x: x[:, 0, 0, :3], {"label": "Mass"}, "no label names to find 'Mass' in"),
        (lambda x: x[:1, 0, 0, :1], {}, r"B=64, but got \(1, 1\)"),
        (lambda x: x[:, 0, 0, :1] / 0 * 0, {}, "not finite"),
        (nn.DataParallel(linear()), {}, "pass its .module"),
    ],
)
def test_bad_models_are_refused(dataset, model, kwargs, match):
    with pytest.raises((TypeError, ValueError), match=match):
        predict(model, dataset, **kwargs)
