"""Heat maps: where a model looks for each label, and a radiograph with a heat map over it."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalcxr._checks import check_tensor
from causalcxr._modes import eval_mode

__all__ = ["HEAT", "AttentionMaps", "attention_maps", "overlay"]

FloatArray = npt.NDArray[np.float64]

_HEAT_RGB = [  # steps of 9.25 in CIELAB lightness, the hue turning from blue over red to yellow
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
"""Default colours of [`overlay`][causalcxr.explain.overlay], from dark blue to pale yellow."""


class AttentionMaps(NamedTuple):
    """Maps of one batch, from [`attention_maps`][causalcxr.explain.attention_maps].

    Attributes:
        causal: Causal map of each label (B, K, H, W).
        confounding: Confounding map of each label (B, K, H, W).
    """

    causal: Tensor
    confounding: Tensor


def attention_maps(model: nn.Module, images: Tensor) -> AttentionMaps:
    """Where the model looks for each label, and what it leaves to the confounders.

    The causal map is the softmax attention A of the last decoder layer, averaged over heads (Nie et al., arXiv
    2305.12072, Eq. 2). The confounding map is its complement (1 - A) / (N - 1), N = h * w tokens, the weights with
    which the decoder pools the confounding features. Both sum to one over the tokens; both are then interpolated
    bilinearly to the size of the images, without another normalisation.

    The confounding map is nearly flat: no value exceeds 1 / (N - 1), and since A sums to one over many tokens, all but
    the few most attended are close to that. It says that the confounding branch sees the whole image except what the
    label's attention singles out. It does not point at a confounder: stretched to its own range, it shows the causal
    map upside down and nothing else.

    The model is in `eval` mode for the call; afterwards every module has the training flag it had before.

    Args:
        model: A model with `forward_causal`, such as any from `causalcxr.create_model`.
        images: Normalised as in training, on the model's device.

    Shape:
        images: (B, C, H, W). Both maps: (B, K, H, W), float32.

    Returns:
        The maps, without gradient.

    Raises:
        TypeError: The model has no `forward_causal`, or images are not a floating-point tensor.
        ValueError: Images are not (B, C, H, W), the model gives no attention, or its feature map is a single token,
            which has no complement.

    Example:
        >>> import causalcxr
        >>> model = causalcxr.create_model("causal_test_resnet")
        >>> maps = attention_maps(model, torch.randn(2, 3, 64, 64))
        >>> maps.causal.shape
        torch.Size([2, 14, 64, 64])
    """
    forward_causal = getattr(model, "forward_causal", None)
    if not callable(forward_causal):
        raise TypeError(
            f"{type(model).__name__} has no forward_causal(images, need_attention=True), which gives the attention; "
            "pass a model from causalcxr.create_model (of a wrapped one, such as DistributedDataParallel, its .module)"
        )
    check_tensor("images", images, "B C H W")
    with torch.no_grad(), eval_mode(model):
        attention = forward_causal(images, need_attention=True).attention
    if attention is None:
        raise ValueError(f"{type(model).__name__}.forward_causal(images, need_attention=True) gave no attention")
    num_tokens = attention.shape[-2] * attention.shape[-1]
    if num_tokens == 1:
        raise ValueError(
            f"images of {images.shape[-2]}x{images.shape[-1]} give a feature map of one token, where every map is flat "
            "and the complement is empty; use larger images or a smaller output_stride"
        )
    size = (images.shape[-2], images.shape[-1])
    causal = F.interpolate(attention.float(), size=size, mode="bilinear", align_corners=False)
    # Interpolation weights sum to one, so the complement of the interpolated map is the interpolated complement.
    return AttentionMaps(causal, (1 - causal) / (num_tokens - 1))


def overlay(image: Any, heatmap: Any, *, alpha: float = 0.5, colormap: Any = HEAT) -> npt.NDArray[np.uint8]:
    """Lay a heat map over a radiograph.

    The heat map is resized to the image and scaled from its own minimum and maximum to v in [0, 1]. The opacity grows
    with the value, pixel = (1 - alpha v) grey + alpha v colour(v), so that the radiograph stays as it is where the map
    is low. A flat map has nothing to show and leaves the radiograph unchanged. Because of this scaling the colours of
    two overlays cannot be compared, and a map with little contrast looks like one with much.

    Args:
        image: One grey radiograph with values in [0, 1], before normalisation; tensor or array.
        heatmap: Any finite values, at any resolution; tensor or array.
        alpha: Opacity at the maximum of the heat map, from 0 to 1.
        colormap: RGB colours in [0, 1], evenly spaced from low to high, with linear interpolation between them. For a
            colour map of matplotlib: `matplotlib.colormaps["viridis"](np.linspace(0, 1, 16))[:, :3]`.

    Shape:
        image: (1, H, W) or (H, W). heatmap: (h, w). colormap: (M, 3) with M >= 2. Result: (H, W, 3).

    Returns:
        An RGB picture in uint8, as `PIL.Image.fromarray` takes it.

    Raises:
        ValueError: A shape differs from these, the image or the colours lie outside [0, 1], the heat map has values
            that are not finite, alpha lies outside [0, 1].

    Example:
        >>> picture = overlay(torch.rand(1, 64, 64), torch.rand(8, 8), alpha=0.4)
        >>> picture.shape, picture.dtype
        ((64, 64, 3), dtype('uint8'))
    """
    grey, heat, colours = _to_numpy(image), _to_numpy(heatmap), _to_numpy(colormap)
    if grey.ndim == 3 and grey.shape[0] == 1:
        grey = grey[0]
    if grey.ndim != 2 or grey.size == 0:
        raise ValueError(f"image must be one grey radiograph, (1, H, W) or (H, W), got {grey.shape}")
    if heat.ndim != 2 or heat.size == 0:
        raise ValueError(f"heatmap must be (h, w), the map of one image and one label, got {heat.shape}")
    if colours.ndim != 2 or colours.shape[1] != 3 or len(colours) < 2:
        raise ValueError(f"colormap must be (M, 3) with at least two colours, got {colours.shape}")
    _check_unit_range("image", grey, "overlay takes it before normalisation; divide 8-bit values by 255")
    _check_unit_range("colormap", colours, "divide 8-bit colours by 255")
    if not np.isfinite(heat).all():
        raise ValueError(f"heatmap must be finite, got NaN or infinity in {np.sum(~np.isfinite(heat))} of {heat.size}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")

    resized = F.interpolate(torch.from_numpy(heat)[None, None], size=grey.shape, mode="bilinear", antialias=True)
    value = _scale_to_unit(resized[0, 0].numpy())
    positions = np.linspace(0, 1, len(colours))
    colour = np.stack([np.interp(value, positions, channel) for channel in colours.T], axis=-1)
    opacity = alpha * value[..., None]
    return np.rint(255 * ((1 - opacity) * grey[..., None] + opacity * colour)).astype(np.uint8)


def _to_numpy(values: Any) -> FloatArray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()  # NumPy has no bfloat16
    return np.asarray(values, dtype=np.float64)


def _check_unit_range(name: str, values: FloatArray, cure: str) -> None:
    if not (values.min() >= 0 and values.max() <= 1):  # written so that NaN fails
        raise ValueError(f"{name} must lie in [0, 1], got values from {values.min():g} to {values.max():g}; {cure}")


def _scale_to_unit(values: FloatArray) -> FloatArray:
    """Scale to [0, 1]; all zero where the range is no more than the rounding of float32."""
    low, high = values.min(), values.max()
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        return np.zeros_like(values)
    return (values - low) / (high - low)
