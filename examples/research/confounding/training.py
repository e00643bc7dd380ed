"""Train one model with one method, and select its epoch on validation images confounded like the training images.

Methods that know the confounder weight them by `backdoor_weights`, or the epoch that relies most on it would win.
"""

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import timm
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from tqdm import tqdm

import causalcxr
from causalcxr.bench import predict
from causalcxr.data import normalise
from causalcxr.losses import backdoor_weights

from .data import Parts
from .methods import Method


@dataclasses.dataclass
class Training:
    """Training options, the same for all methods."""

    model: str = "tf_efficientnet_lite0"
    causal_model: str = "causal_efficientnet_lite0"
    backbone_weights: str = ""
    image_size: int = 96
    epochs: int = 8
    batch_size: int = 64
    lr: float = 5e-4


def build(method: Method, config: Training) -> nn.Module:
    weights = config.backbone_weights
    published = weights in causalcxr.list_pretrained()
    file = "" if published else weights
    model: Any
    if method.causal:
        model = causalcxr.create_model(
            config.causal_model, num_classes=1, pretrained_backbone=file or False, complement=method.complement
        )
    else:
        overlay = {"file": file} if file else None
        model = timm.create_model(config.model, pretrained=bool(file), num_classes=1, pretrained_cfg_overlay=overlay)
    if published:
        backbone = causalcxr.create_model(weights, pretrained=True).backbone.state_dict()
        target = model.backbone if method.causal else model
        if target.load_state_dict(backbone, strict=False).unexpected_keys:
            raise ValueError(f"the backbone of {weights} does not fit {type(target).__name__}")
    return model


def augment(images: Tensor, indices: Tensor, epoch: int, seed: int) -> Tensor:
    """Rotate, scale, shift and re-expose images (B, 1, H, W) in [0, 1], seeded by (seed, epoch, index)."""
    draws = np.stack([np.random.default_rng((seed, epoch, int(i))).uniform(-1, 1, 6) for i in indices])
    angle, zoom, x, y, gain, offset = torch.tensor(draws, dtype=images.dtype).unbind(1)
    angle, zoom = angle * math.radians(8.0), 1 + 0.1 * zoom
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    affine = torch.stack([torch.stack([cos, -sin, 0.1 * x], 1), torch.stack([sin, cos, 0.1 * y], 1)], 1)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, align_corners=False)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    gain, offset = (1 + 0.15 * gain).view(-1, 1, 1, 1), (0.15 * offset).view(-1, 1, 1, 1)
    return ((images - mean) * gain + mean + offset).clamp(0, 1)


def train(method: Method, parts: Parts, config: Training, seed: int) -> nn.Module:
    """Train and return the model of the epoch with the best `selection_auroc`."""
    torch.manual_seed(seed)
    images = torch.stack([(image * 255).round().byte() for image, _ in parts.train])
    targets, strata = parts.train.targets, parts.train.strata
    weight = backdoor_weights(targets, strata) if method.weighted else torch.ones_like(targets)
    model = build(method, config).to(memory_format=torch.channels_last)
    objective = method.objective(model)
    steps = len(images) // config.batch_size
    optimizer = torch.optim.AdamW(objective.parameters(), config.lr, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, config.epochs * steps, pct_start=0.2)
    order = np.random.default_rng(seed)
    best, best_state = -1.0, copy.deepcopy(model.state_dict())
    bar = tqdm(range(config.epochs), leave=False)
    for epoch in bar:
        objective.train()
        if method.drawn:
            drawn = draw(targets, strata, order)
            views = np.arange(len(images))  # repeated images get different views
        else:
            drawn = views = order.permutation(len(images))
        for step in range(steps):
            batch = slice(step * config.batch_size, (step + 1) * config.batch_size)
            chosen, view = torch.from_numpy(drawn[batch]), torch.from_numpy(views[batch])
            x = augment(images[chosen].float() / 255, view, epoch, seed)
            x = normalise(x, model.pretrained_cfg).contiguous(memory_format=torch.channels_last)
            y = targets[chosen]
            if method.transform is not None:
                x, y = method.transform(x, y)
            known = (strata[chosen],) if method.takes_strata else ()
            losses = objective(x, y, *known, weight=weight[chosen])
            optimizer.zero_grad(set_to_none=True)
            losses["loss"].backward()
            nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
        value = selection_auroc(model, parts.val, method.knows_confounder)
        bar.set_description(f"validation {value:.3f}")
        if value > best:
            best, best_state = value, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_state)
    if method.rebalance:
        refit_last_layer(model, parts.val, seed)
    return model.eval()


def draw(targets: Tensor, strata: Tensor, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Sample indices (N,) of images by their `backdoor_weights`, with replacement."""
    chance = backdoor_weights(targets, strata)[:, 0].double().numpy()
    return rng.choice(len(chance), len(chance), p=chance / chance.sum())


def selection_auroc(model: nn.Module, data: Any, adjusted: bool) -> float:
    """Return the AUROC on the confounded validation images, optionally weighted by `backdoor_weights`."""
    weight = backdoor_weights(data.targets, data.strata)[:, 0] if adjusted else None
    return float(roc_auc_score(data.targets[:, 0], predict(model, data), sample_weight=weight))


@torch.no_grad()
def refit_last_layer(model: Any, data: Any, seed: int) -> None:
    """Refit the last layer on equally many validation images per label and stratum (Kirichenko et al., ICLR 2023)."""
    model.eval()
    images = (normalise(image[None], model.pretrained_cfg) for image, _ in data)
    features = torch.cat([model.forward_head(model.forward_features(image), pre_logits=True) for image in images])
    group = 2 * data.targets[:, 0].long() + data.strata
    members = [torch.nonzero(group == value)[:, 0].numpy() for value in range(4)]
    count = min(len(each) for each in members)
    rng = np.random.default_rng(seed)
    chosen = np.concatenate([rng.permutation(each)[:count] for each in members])
    mean, std = features[chosen].mean(dim=0), features[chosen].std(dim=0).clamp(min=1e-6)
    fitted = LogisticRegression(max_iter=5000).fit((features[chosen] - mean) / std, data.targets[chosen, 0])
    weight = torch.from_numpy(fitted.coef_).float() / std
    layer = model.get_classifier()
    layer.weight.copy_(weight)
    layer.bias.copy_(torch.from_numpy(fitted.intercept_).float() - weight @ mean)
