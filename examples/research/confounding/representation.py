"""Measure how much a causal model's features and maps of the finding show of the confounder."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from causalcxr.bench import StratifiedImages
from causalcxr.data import normalise


@torch.no_grad()
def representation(model: Any, test: StratifiedImages) -> tuple[dict[str, float], dict[str, float]]:
    """Return AUROCs of linear probes for the confounder, and mean shares on the marker, of the first finding."""
    parts = []
    for indices in torch.arange(len(test)).split(64):
        images = torch.stack([test[int(index)][0] for index in indices])
        output = model.forward_causal(normalise(images, model.pretrained_cfg), need_attention=True)
        parts.append([each[:, 0] for each in (output.causal, output.confounder, output.attention)])
    causal, confounder, attention = map(torch.cat, zip(*parts, strict=True))
    probes = {"probe_causal": probe(causal, test), "probe_confounder": probe(confounder, test)}
    if not hasattr(test, "mask"):  # a natural confounder
        return probes, {}
    masks = torch.stack([test.mask(index) for index in range(len(test))])
    return probes, {name: float(share.nanmean()) for name, share in shares(attention, masks).items()}


def probe(features: Tensor, test: StratifiedImages) -> float:
    """Return the AUROC of a logistic regression (Alain & Bengio, 2016), the mean of two folds of patients."""
    patients = np.arange(len(test)) if test.patient is None else test.patient
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    options = {"groups": patients, "cv": StratifiedGroupKFold(2, shuffle=True, random_state=0), "scoring": "roc_auc"}
    return float(cross_val_score(regression, features.double().numpy(), test.strata.numpy(), **options).mean())


def shares(attention: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Return the shares (B,) of maps (B, h, w) and of images on markers (B, H, W); NaN for images without a marker.

    A cell of the map is weighted by the fraction of it that the marker covers.
    """
    area = masks.float().mean(dim=(1, 2))
    covered = F.adaptive_avg_pool2d(masks.float()[:, None], attention.shape[1:])[:, 0]
    on_marker = (attention * covered).sum(dim=(1, 2)) / attention.sum(dim=(1, 2))
    found = {"attention_share": on_marker, "area_share": area}
    return {name: share.where(area > 0, torch.nan) for name, share in found.items()}
