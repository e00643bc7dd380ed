"""What a causal model shows of the confounder."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from causalcxr.bench import ConfoundedDataset, StratifiedImages
from confounding.representation import probe, representation


def test_probes_are_those_of_the_features():
    """The causal features are noise, and the confounding ones the brightest pixel."""
    films = torch.rand(80, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.1
    test = ConfoundedDataset(films, [0, 1] * 40, marker="letter", correlation=0.5)

    def forward_causal(images):
        features = images[:, :1, 28, 28], images.amax(dim=(2, 3))[:, :1]
        causal, confounder = (each[..., None] for each in features)
        return SimpleNamespace(causal=causal, confounder=confounder)

    cfg = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    probes = representation(SimpleNamespace(forward_causal=forward_causal, pretrained_cfg=cfg), test)
    assert probes["probe_confounder"] > 0.99
    assert probes["probe_causal"] == pytest.approx(0.5, abs=0.15)


def test_folds_of_the_probe_share_no_patient():
    """All images of a patient share a stratum, so only a probe that has seen the patient can predict it."""
    patient = np.repeat(np.arange(100), 2)
    names = nn.functional.one_hot(torch.from_numpy(patient)).float()
    films = torch.rand(200, 1, 2, 2), [0, 1] * 100, patient % 2
    assert probe(names, StratifiedImages(*films, patient=patient)) == 0.5
    assert probe(names, StratifiedImages(*films)) > 0.7
