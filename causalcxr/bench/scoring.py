"""What a classifier makes of the images of a test: logits, features, and where it looks."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalcxr._checks import check_tensor
from causalcxr._modes import eval_mode
from causalcxr.data import normalise
from causalcxr.data.labels import label_positions

__all__ = ["Predictions", "predict"]


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
    causal: Tensor | None = None
    confounder: Tensor | None = None
    attention_share: Tensor | None = None
    area_share: Tensor | None = None


@torch.no_grad()
def predict(
    model: Callable[[Tensor], Tensor],
    dataset: Any,
    *,
    label: int | str | None = None,
    prepare: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 64,
) -> Predictions:
    """Show every image of a data set to a classifier.

    A module is in `eval` mode for the call, and afterwards as it was. One with `forward_causal` is asked for features
    and attention in the same pass.

    Args:
        model: A module or another callable from images (B, C, H, W) to logits (B, K), of labels that do not exclude
            each other. Of two classes under a softmax give the difference, `lambda x: model(x).diff(dim=1)`, and of
            adjusted probabilities `lambda x: model.predict_do(x, bank).logit(eps=1e-6)`. Images come on the device of a
            module's parameters. To another callable they come on the CPU and as they are: call `model.eval()` first.
        dataset: Items (image, target) with images (1, H, W) in [0, 1], such as
            [`ConfoundedDataset`][causalcxr.bench.ConfoundedDataset]; perhaps with `mask(index)` and `strata`.
        label: Which of the K logits is the finding's, by index or by its name in `model.label_names`; may be left out
            for K = 1.
        prepare: From images (B, 1, H, W) in [0, 1] to what the model takes. It may resize them, but must not crop or
            turn them, or the marker's place is lost. Default: normalised as the model's `pretrained_cfg` says; a model
            without one gets them as they are.
        batch_size: Images at a time.

    Returns:
        The predictions in the order of the data set.

    Raises:
        ValueError: The model gives other shapes than (B, K), logits that are not finite, more than one logit although
            `label` is not given, or fewer than `label` asks for. Or it has no label of this name.
        TypeError: The model gives no tensor, or is wrapped, as in `DistributedDataParallel`.

    Example:
        >>> from causalcxr.bench import ConfoundedDataset
        >>> dataset = ConfoundedDataset(torch.rand(40, 1, 64, 64), [0, 1] * 20, marker="letter", correlation=0.9)
        >>> predict(lambda images: images.mean(dim=(2, 3)), dataset).logits.shape
        torch.Size([40])
    """
    if prepare is None and isinstance(getattr(model, "module", None), nn.Module):
        raise TypeError(f"{type(model).__name__} hides how the model takes images; give its .module")
    names = getattr(model, "label_names", None) or ()
    if isinstance(label, str) and not names:
        raise ValueError(f"the model has no label_names to find {label!r} in; give its index")
    finding = label_positions([label], names)[0] if isinstance(label, str) else label
    prepare = _normalise_for(model, dataset) if prepare is None else prepare
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    device = next((parameter.device for parameter in parameters), torch.device("cpu"))
    causal_forward = getattr(model, "forward_causal", None)
    masked = causal_forward is not None and hasattr(dataset, "mask")
    parts: list[list[Tensor]] = []
    with eval_mode(model) if isinstance(model, nn.Module) else nullcontext():
        for indices in torch.arange(len(dataset)).split(batch_size):
            images = prepare(torch.stack([dataset[int(index)][0] for index in indices]).to(device))
            if causal_forward is None:
                parts.append([_finding(model(images), len(indices), finding)])
                continue
            output = causal_forward(images, need_attention=masked)
            part = [_finding(output.logits, len(indices), finding)]
            part += [features[:, finding or 0].float().cpu() for features in (output.causal, output.confounder)]
            if masked:
                masks = torch.stack([dataset.mask(int(index)) for index in indices])
                part += _shares(output.attention[:, finding or 0].float().cpu(), masks)
            parts.append(part)
    return Predictions(*map(torch.cat, zip(*parts, strict=True)))


def _shares(attention: Tensor, masks: Tensor) -> list[Tensor]:
    """Share of maps (B, h, w) on markers (B, H, W), and of the markers in the images (B,); NaN without a marker.

    A cell of the map counts by the part of it that the marker covers.
    """
    area = masks.float().mean(dim=(1, 2))
    h, w = attention.shape[1:]
    covered = F.adaptive_avg_pool2d(masks.to(attention)[:, None], (h, w))[:, 0]
    on_marker = (attention * covered).sum(dim=(1, 2)) / attention.sum(dim=(1, 2))
    return [share.where(area > 0, torch.nan) for share in (on_marker, area)]


def _normalise_for(model: Any, dataset: Any) -> Callable[[Tensor], Tensor]:
    cfg = getattr(model, "pretrained_cfg", None)
    if not cfg:
        return lambda images: images
    given, size = tuple(dataset[0][0].shape[-2:]), tuple(cfg["input_size"][-2:])
    if getattr(model, "label_names", None) and given != size:  # its weights know films of a size
        warnings.warn(f"images are {given}, but pretrained_cfg has {size}; give the data set image_size=", stacklevel=4)
    channels = getattr(model, "in_chans", len(cfg["mean"]))
    return lambda images: normalise(images, {**cfg, "input_size": (channels,)})


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
