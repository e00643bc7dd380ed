"""The calibration of a model's logits, and a checksum of the weights it was fitted to."""

import logging
import zlib
from typing import Any

import torch

from causalcxr.calibration import Calibration

__all__ = ["calibrate", "checked_calibration", "current_calibration", "weights_checksum"]

_logger = logging.getLogger(__name__)


def checked_calibration(calibration: Any, num_classes: int) -> Calibration:
    """Return the calibration. Raise unless it is a `Calibration` for `num_classes` labels."""
    if not isinstance(calibration, Calibration):
        raise TypeError(f"calibration must be a causalcxr.Calibration, but got {type(calibration).__name__}")
    if len(calibration.thresholds) != num_classes:
        raise ValueError(
            f"calibration must have a threshold for each of {num_classes} labels, but has {len(calibration.thresholds)}"
        )
    return calibration


def calibrate(model: Any, calibration: Calibration) -> None:
    """Set the calibration of a model and record a checksum of the weights it applies to."""
    model.calibration = checked_calibration(calibration, model.num_classes)
    model._calibrated = calibration, weights_checksum(model)


def current_calibration(model: Any) -> Calibration | None:
    """Return the calibration of a model, or None with a logged warning if its weights have changed since it was set."""
    calibration: Calibration | None = getattr(model, "calibration", None)
    recorded, checksum = getattr(model, "_calibrated", (None, None))
    # Setting the calibration of a plain timm model records no checksum.
    if calibration is None or calibration is not recorded or checksum == weights_checksum(model):
        return calibration
    _logger.warning(
        "the calibration is left out because the weights have changed since it was set; pass one fitted to these "
        "weights as calibration=, or calibration=model.calibration if they were only cast to another dtype"
    )
    return None


def weights_checksum(model: Any) -> int:
    """Return a checksum of all parameters and buffers. It does not depend on the device or the memory format."""
    checksum = 0
    for tensor in model.state_dict().values():
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        checksum = zlib.crc32(content.numpy(), checksum)
    return checksum
