"""Predictions of a classifier on a dataset."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from causalcxr._checks import check_tensor
from causalcxr._modes import eval_mode
from causalcxr.data import normalise
from causalcxr.data.labels import label_positions

__all__ = ["predict"]


@torch.no_grad()
def predict(
    model: Callable[[Tensor], Tensor],
    dataset: Any,
    *,
    label: int | str | None = None,
    prepare: Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 64,
) -> Tensor:
    """Run a classifier on all images of a dataset.

    A module is switched to `eval` mode for the call, then restored.

    Args:
        model: A module or another callable from images (B, C, H, W) to multi-label logits (B, K). For two logits
            (normal, finding), pass their difference, `lambda x: model(x).diff(dim=1)`. For adjusted probabilities, pass
            `lambda x: model.predict_do(x, bank).logit(eps=1e-6)`. Images are moved to the device of a module's
            parameters. Other callables receive images on the CPU, and you must call `model.eval()` yourself.
        dataset: Items (image, target) with images (1, H, W) in [0, 1], e.g. a
            [`ConfoundedDataset`][causalcxr.bench.ConfoundedDataset].
        label: Index of the finding's logit, or its name in `model.label_names`. Optional if K = 1.
        prepare: Function from images (B, 1, H, W) in [0, 1] to the model's input. Default: normalise by the model's
            `pretrained_cfg`, if it has one.
        batch_size: Number of images per batch.

    Returns:
        The logits of the finding (N,) in the order of the dataset, float32 on the CPU.

    Raises:
        ValueError: The logits are not (B, K) or not finite, `label` is missing for K > 1 or out of range, or the model
            has no label of this name.
        TypeError: The model does not return a tensor, or is wrapped, e.g. in `DistributedDataParallel`.

    Example:
        >>> from causalcxr.bench import ConfoundedDataset
        >>> dataset = ConfoundedDataset(torch.rand(40, 1, 64, 64), [0, 1] * 20, marker="letter", correlation=0.9)
        >>> predict(lambda images: images.mean(dim=(2, 3)), dataset).shape
        torch.Size([40])
    """
    if prepare is None and isinstance(getattr(model, "module", None), nn.Module):
        raise TypeError(f"{type(model).__name__} hides the model's input settings; pass its .module, or prepare=")
    names = getattr(model, "label_names", None) or ()
    finding = label_positions([label], names)[0] if isinstance(label, str) else label
    prepare = _normalise_for(model, dataset) if prepare is None else prepare
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    device = next((parameter.device for parameter in parameters), torch.device("cpu"))
    logits = []
    with eval_mode(model) if isinstance(model, nn.Module) else nullcontext():
        for indices in torch.arange(len(dataset)).split(batch_size):
            images = prepare(torch.stack([dataset[int(index)][0] for index in indices]).to(device))
            logits.append(_finding(model(images), len(indices), finding))
    return torch.cat(logits)


def _normalise_for(model: Any, dataset: Any) -> Callable[[Tensor], Tensor]:
    cfg = getattr(model, "pretrained_cfg", None)
    if not cfg:
        return lambda images: images
    given, size = tuple(dataset[0][0].shape[-2:]), tuple(cfg["input_size"][-2:])
    if getattr(model, "label_names", None) and given != size:  # trained weights expect one image size
        warnings.warn(f"images are {given}, but pretrained_cfg has {size}; set the dataset's image_size=", stacklevel=4)
    channels = getattr(model, "in_chans", len(cfg["mean"]))
    return lambda images: normalise(images, {**cfg, "input_size": (channels,)})


def _finding(logits: Any, batch: int, label: int | None) -> Tensor:
    """Return the logits (B,) of the finding."""
    check_tensor("the model's output", logits, "B K", B=batch)
    num_labels = logits.shape[1]
    if label is None and num_labels != 1:
        raise ValueError(f"the model returns {num_labels} logits; pass the finding's as label=")
    if label is not None and not 0 <= label < num_labels:
        raise ValueError(f"label must be from 0 to {num_labels - 1}, an index of the model's logits, got {label}")
    chosen = logits[:, label or 0].float().cpu()
    if not bool(chosen.isfinite().all()):
        raise ValueError(f"the model returns logits that are not finite, for {int((~chosen.isfinite()).sum())} images")
    return chosen
