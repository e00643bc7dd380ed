"""Heat maps of the evidence and attention for each label, and their overlay on a radiograph."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from causalcxr._checks import check_tensor
from causalcxr._modes import eval_mode
from causalcxr.data.image import read_image
from causalcxr.data.labels import label_positions
from causalcxr.metrics._inputs import FloatArray, as_floats

__all__ = ["HEAT", "attention_maps", "evidence_maps", "overlay"]

_HEAT_RGB = [  # equal steps of 9.25 in CIELAB lightness, from blue through red to yellow
    (17, 32, 121),
    (105, 16, 137),
    (156, 25, 125),
    (203, 33, 116),
    (246, 51, 98),
    (248, 115, 95),
    (250, 158, 106),
    (252, 196, 128),
    (254, 231, 161),
]
HEAT: FloatArray = np.array(_HEAT_RGB) / 255
"""Colour map of [`overlay`][causalcxr.explain.overlay], from dark blue to pale yellow."""


def evidence_maps(model: Any, images: Tensor, labels: Sequence[int | str] | int | str | None = None) -> Tensor:
    r"""Return how much each image location contributes to the logit of each label.

    To first order, cell n of the encoded map f (the output of the head's `feature_learning`) contributes to logit z_k:

    .. math:: E_{kn} = \sum_d \frac{\partial z_k}{\partial f_{nd}} f_{nd}

    Positive values are evidence for the finding, negative ones against it. All values are in units of the logit, so
    maps of different labels and images are comparable. They do not add up to the logit. The maps are interpolated
    bilinearly to the image size. The paper uses `attention_maps` instead.

    The model runs in `eval` mode, with one backward pass through the decoder per label.

    Args:
        model: A causal model, such as any from `causalcxr.create_model`.
        images: Normalised as in training, on the model's device.
        labels: Indices of the labels to explain, or names from `model.label_names`. Default: all.

    Shape:
        images: (B, C, H, W). Result: (B, K, H, W), float32, without gradient. K is the number of `labels`.

    Raises:
        TypeError: If the model is not causal, images are not a floating-point tensor, or a label is neither a name nor
            an integer.
        ValueError: If images are not (B, C, H, W), a label is unknown, or the model has no label names to look it up.

    Example:
        >>> import causalcxr
        >>> model = causalcxr.create_model("causal_test_resnet")
        >>> evidence_maps(model, torch.randn(2, 3, 64, 64), labels=[0, 3]).shape
        torch.Size([2, 2, 64, 64])
    """
    _check(model, images, "forward_features")
    _check(getattr(model, "head", model), images, "decode")
    head = model.head
    given: Any = range(head.num_classes) if labels is None else labels
    given = [given] if isinstance(given, str) or np.ndim(given) == 0 else given
    names = getattr(model, "label_names", None) or ()
    chosen = [label_positions([k], names)[0] if isinstance(k, str) else operator.index(k) for k in given]
    if not chosen or not all(0 <= k < head.num_classes for k in chosen):
        raise ValueError(f"labels must be indices from 0 to {head.num_classes - 1}, but got {chosen}")
    with torch.inference_mode(False), eval_mode(model):
        with torch.no_grad():
            encoded = head.feature_learning(model.forward_features(images)).clone()
        with torch.enable_grad():
            logits = head.decode(encoded.requires_grad_()).logits.sum(dim=0)  # images are independent
            gradients = [torch.autograd.grad(logits[k], encoded, retain_graph=True)[0] for k in chosen]
    evidence = [(gradient.float() * encoded.detach().float()).sum(dim=1) for gradient in gradients]
    return _to_images(torch.stack(evidence, dim=1), images)


def attention_maps(model: Any, images: Tensor) -> Tensor:
    """Return the attention to each image location for each label, as in the paper (arXiv 2305.12072, Eq. 2).

    This is the softmax attention A of the last decoder layer, averaged over heads and interpolated bilinearly to the
    image size. At token resolution, each map sums to one. It shows where features come from, but not whether they are
    evidence for or against the finding. See `evidence_maps` for that.

    Args:
        model: A causal model, such as any from `causalcxr.create_model`. It runs in `eval` mode.
        images: Normalised as in training, on the model's device.

    Shape:
        images: (B, C, H, W). Result: (B, K, H, W), float32, without gradient.

    Raises:
        TypeError: If the model is not causal, or images are not a floating-point tensor.
        ValueError: If images are not (B, C, H, W).

    Example:
        >>> import causalcxr
        >>> model = causalcxr.create_model("causal_test_resnet")
        >>> attention_maps(model, torch.randn(2, 3, 64, 64)).shape
        torch.Size([2, 14, 64, 64])
    """
    _check(model, images, "forward_causal")
    with torch.no_grad(), eval_mode(model):
        attention = model.forward_causal(images, need_attention=True).attention
    return _to_images(attention, images)


def _check(model: Any, images: Any, needed: str) -> None:
    if not callable(getattr(model, needed, None)):
        raise TypeError(
            f"{type(model).__name__} has no {needed}; pass a model from causalcxr.create_model (for a wrapped model, "
            "such as DistributedDataParallel, pass its .module)"
        )
    check_tensor("images", images, "B C H W")


def _to_images(maps: Tensor, images: Tensor) -> Tensor:
    return F.interpolate(maps.float(), size=images.shape[-2:], mode="bilinear", align_corners=False)


def overlay(image: Any, heatmap: Any, *, alpha: float = 0.5, vmax: float | None = None) -> npt.NDArray[np.uint8]:
    """Overlay a heat map on a radiograph.

    The heat map is resized to the image and scaled to v = heatmap / vmax, clipped to [0, 1]. Zero and negative values,
    such as evidence against a finding, leave the radiograph unchanged. Opacity grows with the value: pixel =
    (1 - alpha v) grey + alpha v colour(v). Overlays with the same `vmax` are comparable.

    Args:
        image: The radiograph before normalisation, as accepted by `causalcxr.data.read_image`.
        heatmap: Finite values at any resolution; tensor or array.
        alpha: Opacity at `vmax`, from 0 to 1.
        vmax: Positive value that maps to the last colour. Default: the heat map's maximum. If that is not positive, the
            heat map is invisible.

    Shape:
        heatmap: (h, w). Result: (H, W, 3), RGB in uint8.

    Raises:
        ValueError: If the heat map is not (h, w) or not finite, alpha lies outside [0, 1], or vmax is not positive.
        ValueError, TypeError, OSError: If the image cannot be read (see `read_image`).

    Example:
        >>> picture = overlay(torch.rand(1, 64, 64), torch.rand(8, 8), alpha=0.4)
        >>> picture.shape, picture.dtype
        ((64, 64, 3), dtype('uint8'))
    """
    grey, heat = as_floats(read_image(image)[0]), as_floats(heatmap)
    if heat.ndim != 2:
        raise ValueError(f"heatmap must be (h, w), the map of one image and one label, but got {heat.shape}")
    if not np.isfinite(heat).all():
        raise ValueError(f"heatmap must be finite, got NaN or infinity in {np.sum(~np.isfinite(heat))} of {heat.size}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
    if vmax is not None and not vmax > 0:
        raise ValueError(f"vmax must be more than 0, got {vmax}")

    resized = F.interpolate(torch.from_numpy(heat)[None, None], size=grey.shape, mode="bilinear", antialias=True)
    value = resized[0, 0].numpy()
    highest = max(heat.max(), 0.0) if vmax is None else vmax
    value = (value / highest if highest else value).clip(0, 1)
    positions = np.linspace(0, 1, len(HEAT))
    colour = np.stack([np.interp(value, positions, channel) for channel in HEAT.T], axis=-1)
    opacity = alpha * value[..., None]
    return np.rint(255 * ((1 - opacity) * grey[..., None] + opacity * colour)).astype(np.uint8)
