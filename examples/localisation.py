"""How well heat maps find the boxes that radiologists drew: 984 of them, all on the official test list.

Nothing is chosen on boxes: a heat map is scaled from its minimum to its maximum, its box is the one around the
component of values of one half and more that holds its maximum, and the prior is a box in the middle of the image with
half its side.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import causalcxr
from causalcxr.data import NIH_LABELS
from causalcxr.data.nih_tables import Box
from causalcxr.explain import attention_maps
from causalcxr.metrics import box_iou, peak_box, pointing_game
from scoring import prepare

RELEASE_SIDE = 1024  # boxes are in pixels of the release
MAP_SIDE = 256
IOU_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)  # of Wang et al., CVPR 2017


class Marked(NamedTuple):
    """A finding that was marked on an image."""

    index: int
    label: int
    boxes: list[tuple[float, float, float, float]]  # x, y, w, h in pixels of a map of MAP_SIDE


def marked_findings(dataset: Any) -> Iterator[Marked]:
    """Yield each marked finding of each image of the data set, in its order."""
    scale = MAP_SIDE / RELEASE_SIDE
    for index, name in enumerate(getattr(dataset, "names", ())):  # generated radiographs have neither names nor boxes
        boxes: list[Box] = dataset.boxes.get(name, [])
        for label in dict.fromkeys(box.label for box in boxes):
            scaled = [(b.x * scale, b.y * scale, b.w * scale, b.h * scale) for b in boxes if b.label == label]
            yield Marked(index, NIH_LABELS.index(label), scaled)


def grad_cam(model: nn.Module, images: Tensor, label: int) -> Tensor | None:
    """Return where the label's logit grows with the last feature map, (B, H, W) (Selvaraju et al., ICCV 2017).

    `None` for a model whose features are no map, such as the tokens of a plain vision transformer.
    """
    with torch.enable_grad():
        features = model.forward_features(images).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(model.forward_head(features)[:, label].sum(), features)
    features = features.detach()
    if features.ndim == 4 and features.shape[1] != model.num_features == features.shape[3]:  # (B, H, W, C)
        features, gradient = features.permute(0, 3, 1, 2), gradient.permute(0, 3, 1, 2)
    if features.ndim != 4 or features.shape[1] != model.num_features:
        return None
    return (gradient.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1).relu()


def centre_prior() -> Tensor:
    """Return a map that falls from its middle to its border, and whose level of one half is a box of half the side."""
    distance = (torch.arange(1 - MAP_SIDE, MAP_SIDE, 2) / MAP_SIDE).abs()
    return 1 - torch.maximum(distance[:, None], distance[None])


def heat_maps(model: nn.Module, image: Tensor, label: int) -> dict[str, Tensor]:
    """Return the maps (MAP_SIDE, MAP_SIDE) of one image (1, H, W) in [0, 1] for one label, by method."""
    images = prepare(image[None].to(next(model.parameters()).device), model)
    gradients = grad_cam(model, images, label)
    maps = {} if gradients is None else {"Grad-CAM": gradients}
    if isinstance(model, causalcxr.CausalCXR):
        maps |= {"causal map": attention_maps(model, images)[:, label]}
    size = (MAP_SIDE, MAP_SIDE)
    return {
        name: F.interpolate(value[None].float().cpu(), size=size, mode="bilinear", align_corners=False)[0, 0]
        for name, value in maps.items()
    } | {"centre box": centre_prior()}


def localise(model: nn.Module, dataset: Any, *, n_resamples: int = 2000) -> dict[str, Any]:
    """Return, for each method, how often it points into a box and how well its box overlaps (empty without boxes)."""
    hits: dict[str, list[bool]] = {}
    overlaps: dict[str, list[float]] = {}
    marked = list(marked_findings(dataset))
    for finding in tqdm(marked, "boxes", leave=False, dynamic_ncols=True):
        for name, heat_map in heat_maps(model, dataset[finding.index][0], finding.label).items():
            hits.setdefault(name, []).append(pointing_game(heat_map, finding.boxes))
            box = peak_box(heat_map)
            overlaps.setdefault(name, []).append(max(box_iou(box, marked_box) for marked_box in finding.boxes))
    patients = dataset.patient[[finding.index for finding in marked]]
    return {
        name: {
            "findings": len(marked),
            "pointing_game": _mean(np.array(hits[name], dtype=float), patients, n_resamples),
            "mean_iou": _mean(np.array(overlaps[name]), patients, n_resamples),
            "share_with_iou_of": {
                str(threshold): round(float(np.mean(np.array(overlaps[name]) >= threshold)), 4)
                for threshold in IOU_THRESHOLDS
            },
        }
        for name in hits
    }


def _mean(values: np.ndarray, patients: np.ndarray, n_resamples: int) -> dict[str, Any]:
    """Return the mean over findings with its 95 % interval over patients."""
    members = np.unique(patients, return_inverse=True)[1]
    sums, counts = np.bincount(members, values), np.bincount(members)
    drawn = np.random.default_rng(0).integers(len(sums), size=(n_resamples, len(sums)))
    low, high = np.percentile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [2.5, 97.5])
    return {"mean": round(float(values.mean()), 4), "interval": [round(float(low), 4), round(float(high), 4)]}
