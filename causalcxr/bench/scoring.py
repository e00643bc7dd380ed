"""What a classifier makes of the images of a test: logits, features, and where it looks."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalcxr._checks import check_tensor
from causalcxr._modes import eval_mode
from causalcxr.data import normalise

__all__ = ["Predictions", "attention_share", "predict"]

Prepare = Callable[[Tensor], Tensor]


class Predictions(NamedTuple):
    """What a classifier makes of N images, from [`predict`][causalcxr.bench.predict]; on the CPU, in float32.

    Attributes:
        logits: (N,), of the finding.
        causal: (N, D) causal features of the finding; `None` for a model without `forward_causal`.
        confounder: (N, D) confounder features of the finding; `None` for a model without `forward_causal`.
        attention_share: (N,) share of the finding's causal map on the marker, NaN for an image without one; `None` for
            a model without `forward_causal`, and for a data set without `mask`.
        area_share: (N,) share of the image that the marker covers, which a flat map would have; else as
            `attention_share`.
    """

    logits: Tensor
    causal: Tensor | None
    confounder: Tensor | None
    attention_share: Tensor | None
    area_share: Tensor | None


@torch.no_grad()
def predict(
    model: Callable[[Tensor], Tensor],
    dataset: Any,
    *,
    label: int | None = None,
    prepare: Prepare | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> Predictions:
    """Show every image of a data set to a classifier.

    A module is in `eval` mode for the call, and afterwards as it was. One with `forward_causal` is asked for features
    and attention in the same pass.

    Args:
        model: A module or another callable from images (B, C, H, W) to logits (B, K). Adjusted probabilities can be
            scored as `lambda x: model.predict_do(x, bank).logit(eps=1e-6)`.
        dataset: Items (image, target) with images (1, H, W) in [0, 1], such as
            [`ConfoundedDataset`][causalcxr.bench.ConfoundedDataset]; perhaps with `mask(index)` and `strata`.
        label: Which of the K logits is the finding's; may be left out for K = 1.
        prepare: From images (B, 1, H, W) in [0, 1] to what the model takes. It may resize them, but must not crop or
            turn them, or the marker's place is lost. Default: [`normalise`][causalcxr.data.normalise] with the model's
            `pretrained_cfg`; a model without one gets them as they are.
        batch_size: Images at a time.
        device: Where the images go. Default: where the model's parameters are, the CPU for a model without any.

    Returns:
        [`Predictions`][causalcxr.bench.Predictions] in the order of the data set.

    Raises:
        ValueError: The model gives other shapes than (B, K), logits that are not finite, more than one logit although
            `label` is not given, or fewer than `label` asks for; `batch_size` is below 1.
        TypeError: The model gives no tensor.

    Example:
        >>> from causalcxr.bench import ConfoundedDataset
        >>> dataset = ConfoundedDataset(torch.rand(40, 1, 64, 64), [0, 1] * 20, marker="letter", correlation=0.9)
        >>> predict(lambda images: images.mean(dim=(2, 3)), dataset).logits.shape
        torch.Size([40])
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    prepare = _normalise_for(model) if prepare is None else prepare
    device = _device_of(model) if device is None else device
    causal_forward = getattr(model, "forward_causal", None)
    masked = hasattr(dataset, "mask") and callable(causal_forward)
    parts: list[Predictions] = []
    mode: AbstractContextManager[None] = eval_mode(model) if isinstance(model, nn.Module) else nullcontext()
    with mode:
        for indices in _batches(len(dataset), batch_size):
            images = prepare(torch.stack([dataset[index][0] for index in indices]).to(device))
            if not callable(causal_forward):
                parts.append(Predictions(_finding(model(images), len(indices), label), None, None, None, None))
                continue
            output = causal_forward(images, need_attention=masked)
            logits = _finding(output.logits, len(indices), label)
            causal, confounder = (features[:, label or 0].float().cpu() for features in output[3:5])
            shares: tuple[Tensor | None, Tensor | None] = (None, None)
            if masked:
                masks = torch.stack([dataset.mask(index) for index in indices])
                shares = _shares(output.attention[:, label or 0].float().cpu(), masks)
            parts.append(Predictions(logits, causal, confounder, *shares))
    fields = [None if field[0] is None else torch.cat(field) for field in zip(*parts, strict=True)]
    return Predictions._make(fields)


def _normalise_for(model: Any) -> Callable[[Tensor], Tensor]:
    cfg = getattr(model, "pretrained_cfg", None)
    if not cfg:
        return lambda images: images
    channels = getattr(model, "in_chans", len(cfg["mean"]))
    return lambda images: normalise(images, {**cfg, "input_size": (channels,)})


def attention_share(attention: Tensor, masks: Tensor) -> Tensor:
    """Share of an attention map that falls on a marker.

    A cell of the map counts by the part of it that the marker covers. A flat map has the marker's share of the image
    (where the map's sides divide the image's, else nearly).

    Args:
        attention: Maps of any positive sum.
        masks: Where the marker is, bool, at the resolution of the images.

    Shape:
        attention: (B, h, w). masks: (B, H, W). Result: (B,).

    Raises:
        ValueError: Shapes do not fit.
        TypeError: The maps are not of floating point.

    Example:
        >>> masks = torch.zeros(1, 64, 64, dtype=torch.bool)
        >>> masks[:, :16, :16] = True
        >>> attention_share(torch.ones(1, 4, 4), masks)
        tensor([0.0625])
    """
    check_tensor("attention", attention, "B h w")
    if masks.ndim != 3 or len(masks) != len(attention):
        raise ValueError(f"masks must be (B, H, W) with B={len(attention)}, but got {tuple(masks.shape)}")
    _, h, w = attention.shape
    covered = F.adaptive_avg_pool2d(masks.to(attention)[:, None], (h, w))[:, 0]
    return (attention * covered).sum(dim=(1, 2)) / attention.sum(dim=(1, 2))


def _shares(attention: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Share of the map on the marker and of the marker in the image (B,), NaN where there is no marker."""
    area = masks.float().mean(dim=(1, 2))
    marked = area > 0
    return attention_share(attention, masks).where(marked, torch.nan), area.where(marked, torch.nan)


def _finding(logits: Any, batch: int, label: int | None) -> Tensor:
    """The logits (B,) of the finding."""
    check_tensor("the model's output", logits, "B K", B=batch)
    num_labels = logits.shape[1]
    if label is None and num_labels != 1:
        raise ValueError(f"the model gives {num_labels} logits; say which is the finding's with label=")
    if label is not None and not 0 <= label < num_labels:
        raise ValueError(f"label must be one of the model's {num_labels} logits, from 0, got {label}")
    chosen = logits[:, label or 0].float().cpu()
    if not bool(chosen.isfinite().all()):
        raise ValueError(f"the model gives logits that are not finite, for {int((~chosen.isfinite()).sum())} images")
    return chosen


def _batches(length: int, batch_size: int) -> Iterator[range]:
    for start in range(0, length, batch_size):
        yield range(start, min(start + batch_size, length))


def _device_of(model: Any) -> torch.device:
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), torch.device("cpu"))
