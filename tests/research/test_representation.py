"""What a causal model shows of the confounder."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from causalcxr.bench import ConfoundedDataset, StratifiedImages
from confounding.representation import probe, representation, shares


def test_shares_of_constructed_maps():
    masks = torch.zeros(5, 64, 64, dtype=torch.bool)
    masks[:4, :24, :16] = True  # one cell of 16 pixels, and the upper half of the cell below
    maps = torch.zeros(5, 4, 4)
    maps[0] = 1 / 16  # flat
    maps[1, 0, 0] = 1  # on the marker
    maps[2, 1, 0] = 1  # on the half-covered cell
    maps[3:, 3, 3] = 1  # off the marker; the last image has none
    found = shares(5 * maps, masks)  # of any sum
    covered = 24 * 16 / 64**2
    expected = {
        "attention_share": torch.tensor([covered, 1.0, 0.5, 0.0, torch.nan]),
        "area_share": torch.tensor([covered] * 4 + [torch.nan]),
    }
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_probes_and_shares_are_those_of_the_features_and_maps():
    """The causal features are noise, the confounding ones the brightest pixel, and the map is flat."""
    films = torch.rand(80, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.1
    test = ConfoundedDataset(films, [0, 1] * 40, marker="letter", correlation=0.5)

    def forward_causal(images, need_attention):
        features = images[:, :1, 28, 28], images.amax(dim=(2, 3))[:, :1]
        causal, confounder = (each[..., None] for each in features)
        attention = torch.full((len(images), 1, 4, 4), 1 / 16)
        return SimpleNamespace(causal=causal, confounder=confounder, attention=attention)

    cfg = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    probes, on_marker = representation(SimpleNamespace(forward_causal=forward_causal, pretrained_cfg=cfg), test)
    assert probes["probe_confounder"] > 0.99
    assert probes["probe_causal"] == pytest.approx(0.5, abs=0.15)
    assert on_marker["attention_share"] == pytest.approx(on_marker["area_share"])
    marked = [test.mask(i).float().mean() for i in range(80) if test.strata[i]]
    assert on_marker["area_share"] == pytest.approx(np.mean(marked))


def test_folds_of_the_probe_share_no_patient():
    """All images of a patient share a stratum, so only a probe that has seen the patient can predict it."""
    patient = np.repeat(np.arange(100), 2)
    names = nn.functional.one_hot(torch.from_numpy(patient)).float()
    films = torch.rand(200, 1, 2, 2), [0, 1] * 100, patient % 2
    assert probe(names, StratifiedImages(*films, patient=patient)) == 0.5
    assert probe(names, StratifiedImages(*films)) > 0.7
