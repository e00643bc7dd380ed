"""Measure how much a causal model's features show of the confounder."""

from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from causalcxr.bench import StratifiedImages
from causalcxr.data import normalise


@torch.no_grad()
def representation(model: Any, test: StratifiedImages) -> dict[str, float]:
    """Return AUROCs of linear probes for the confounder, from both kinds of features of the first finding."""
    parts = []
    for indices in torch.arange(len(test)).split(64):
        images = torch.stack([test[int(index)][0] for index in indices])
        output = model.forward_causal(normalise(images, model.pretrained_cfg))
        parts.append([output.causal[:, 0], output.confounder[:, 0]])
    causal, confounder = map(torch.cat, zip(*parts, strict=True))
    return {"probe_causal": probe(causal, test), "probe_confounder": probe(confounder, test)}


def probe(features: Tensor, test: StratifiedImages) -> float:
    """Return the AUROC of a logistic regression (Alain & Bengio, 2016), the mean of two folds of patients."""
    patients = np.arange(len(test)) if test.patient is None else test.patient
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    options = {"groups": patients, "cv": StratifiedGroupKFold(2, shuffle=True, random_state=0), "scoring": "roc_auc"}
    return float(cross_val_score(regression, features.double().numpy(), test.strata.numpy(), **options).mean())
