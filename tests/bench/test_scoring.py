from types import SimpleNamespace

import pytest
import torch
from torch import nn

import causalcxr
from causalcxr.bench import ConfoundedDataset, StratifiedImages, predict
from causalcxr.bench.scoring import _shares


def linear():
    """With dropout, to tell the modes apart."""
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64 * 64, 1))


class Causal(nn.Module):
    """Gives for label k the features k + mean of the image, and attention on the cells of row k."""

    def forward_causal(self, images, need_attention=False):
        assert not self.training
        B, K = len(images), 3
        shades = images.mean(dim=(1, 2, 3)).view(B, 1, 1) + torch.arange(K).view(1, K, 1)
        attention = torch.zeros(B, K, 4, 4)
        for k in range(K):
            attention[:, k, k] = 0.25
        return SimpleNamespace(
            logits=shades[..., 0],
            causal=shades.expand(-1, -1, 5),
            confounder=-shades.expand(-1, -1, 7),
            attention=attention if need_attention else None,
        )


@pytest.fixture
def dataset(films):
    return ConfoundedDataset(*films, marker="letter", correlation=0.9)


def images_of(dataset):
    return torch.stack([image for image, _ in dataset])


def test_logits_are_the_models_own_in_eval_mode_for_the_call_alone(dataset):
    model = linear().eval()
    expected = model(images_of(dataset))[:, 0].detach()
    model.train()[0].eval()
    for batch_size in (1, 64, 200, 999):
        predictions = predict(model, dataset, batch_size=batch_size)
        torch.testing.assert_close(predictions.logits, expected)
        assert not predictions.logits.requires_grad
        assert predictions[1:] == (None,) * 4
    assert (model.training, model[0].training, model[1].training) == (True, False, True)


def test_features_attention_and_areas_of_the_label(dataset):
    shades = images_of(dataset).mean(dim=(1, 2, 3))
    for label in range(3):
        predictions = predict(Causal(), dataset, label=label, batch_size=60)
        torch.testing.assert_close(predictions.logits, shades + label)
        torch.testing.assert_close(predictions.causal, (shades + label)[:, None].expand(-1, 5))
        torch.testing.assert_close(predictions.confounder, -(shades + label)[:, None].expand(-1, 7))
        for i in range(0, 200, 17):
            mask = dataset.mask(i).float()
            if mask.any():
                assert predictions.area_share[i] == pytest.approx(mask.mean().item())
                in_row = mask[16 * label : 16 * (label + 1)].mean().item()
                assert predictions.attention_share[i] == pytest.approx(in_row)
        assert torch.equal(predictions.attention_share.isnan(), dataset.strata == 0)
        assert torch.equal(predictions.area_share.isnan(), dataset.strata == 0)


def test_no_attention_is_asked_for_where_there_are_no_masks(films):
    predictions = predict(Causal(), StratifiedImages(*films, strata=films.targets), label=0)
    assert predictions.causal.shape == (200, 5)
    assert predictions[3:] == (None, None)


def test_models_of_the_registry(films):
    model = causalcxr.create_model("causal_test_resnet")
    dataset = ConfoundedDataset(films.images[:24], films.targets[:24], marker="tube", correlation=0.75)
    predictions = predict(model, dataset, label=4, batch_size=10)
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        output = model.eval().forward_causal((images_of(dataset) - mean) / std)
    for name in ("logits", "causal", "confounder"):
        torch.testing.assert_close(getattr(predictions, name), getattr(output, name)[:, 4], atol=1e-4, rtol=1e-4)
    shares = predictions.attention_share[dataset.strata == 1]
    assert len(shares) == 12
    assert 0 < shares.min() < shares.max() < 1


def test_the_images_go_where_the_parameters_are(dataset):
    with torch.device("meta"):
        away = linear()

    def prepare(images):
        assert images.device.type == "meta"
        raise InterruptedError

    with pytest.raises(InterruptedError):
        predict(away, dataset, prepare=prepare)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_share_of_constructed_maps(scale):
    masks = torch.zeros(5, 64, 64, dtype=torch.bool)
    masks[:4, :24, :16] = True  # one cell of 16 pixels, and the upper half of the one below
    maps = torch.zeros(5, 4, 4)
    maps[0] = 1 / 16  # flat
    maps[1, 0, 0] = 1  # on the marker
    maps[2, 1, 0] = 1  # on the cell half of which it covers
    maps[3:, 3, 3] = 1  # elsewhere; on the last image there is no marker
    share, area = _shares(scale * maps, masks)
    covered = 24 * 16 / 64**2
    torch.testing.assert_close(share, torch.tensor([covered, 1.0, 0.5, 0.0, torch.nan]), equal_nan=True)
    torch.testing.assert_close(area, torch.tensor([covered] * 4 + [torch.nan]), equal_nan=True)


@pytest.mark.parametrize(
    ("model", "kwargs", "match"),
    [
        (lambda x: x[:, 0, 0, :3], {}, "label="),
        (lambda x: x[:, 0, 0, :3], {"label": 3}, "got 3"),
        (lambda x: x[:, 0, 0, 0], {}, r"\(64,\)"),
        (lambda x: x[:1, 0, 0, :1], {}, r"B=64, but got \(1, 1\)"),
        (lambda x: x[:, 0, 0, :1] / 0 * 0, {}, "not finite"),
    ],
)
def test_bad_models_are_refused(dataset, model, kwargs, match):
    with pytest.raises(ValueError, match=match):
        predict(model, dataset, **kwargs)
