"""Location of the maximum of heat maps for marked findings."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import causalcxr
from causalcxr.data import NIH_LABELS, normalise
from causalcxr.data.nih_tables import NIHTables

RELEASE_SIDE = 1024  # boxes are in pixels of the original release
MAP_SIDE = 256


class Marked(NamedTuple):
    """A finding marked on a film: row of the film, index of the label, and boxes (x, y, w, h) in [0, 1]."""

    row: int
    label: int
    boxes: list[tuple[float, ...]]


def marked_findings(tables: NIHTables) -> list[Marked]:
    """Return all marked findings, in the order of the films."""
    found = []
    for row, name in enumerate(tables.names):
        of_film = tables.boxes.get(name, [])
        for label in dict.fromkeys(box.label for box in of_film):
            boxes = [tuple(value / RELEASE_SIDE for value in box[1:]) for box in of_film if box.label == label]
            found.append(Marked(row, NIH_LABELS.index(label), boxes))
    return found


def evidence(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the first-order contribution of each cell to the logit of one label per image, (B, h, w).

    It is sum_d dz_k / df_nd f_nd at the encoded map of a causal model, or at the last map of a plain one.
    """
    with torch.no_grad():
        encoded = model.forward_features(images)
        if causal := isinstance(model, causalcxr.CausalCXR):
            encoded = model.head.feature_learning(encoded)
    with torch.enable_grad():
        encoded.requires_grad_()
        logits = model.head.decode(encoded).logits if causal else model.forward_head(encoded)
        (gradient,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), encoded)
    return (gradient * encoded).detach().sum(dim=1)


def point(model: nn.Module, images: Tensor, marked: list[Marked]) -> dict[str, list[list[float]]]:
    """Return the location (x, y) in [0, 1] of each map's maximum, for each marked finding.

    `images` has the film of each finding, (M, 1, S, S). Maps are computed in float32 and upsampled bilinearly before
    taking the maximum.
    """
    model.eval()
    labels = torch.tensor([finding.label for finding in marked], device=images.device)
    inputs = normalise(images, model.pretrained_cfg)
    maps, places = {"evidence": evidence(model, inputs, labels)}, {}
    if isinstance(model, causalcxr.CausalCXR):
        with torch.no_grad():
            found = model.forward_causal(inputs, need_attention=True).attention
        maps["attention"] = found[torch.arange(len(found), device=found.device), labels]
    for name, of_films in maps.items():
        large = F.interpolate(of_films[:, None].float(), size=(MAP_SIDE, MAP_SIDE), mode="bilinear")
        peak = large.flatten(1).argmax(dim=1).cpu()
        x, y = (peak % MAP_SIDE + 0.5) / MAP_SIDE, (peak // MAP_SIDE + 0.5) / MAP_SIDE
        places[name] = [[round(float(a), 4), round(float(b), 4)] for a, b in zip(x, y, strict=True)]
    return places


def inside(x: float, y: float, marked: Marked) -> bool:
    """Return whether a location lies in one of the boxes."""
    return any(left <= x < left + w and top <= y < top + h for left, top, w, h in marked.boxes)
