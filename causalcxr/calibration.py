"""Calibrated probabilities: one temperature for all labels and a threshold for each, fitted on validation images."""

import logging
import warnings
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from causalcxr._checks import check_choice
from causalcxr.metrics._inputs import FloatArray, as_floats, check_inputs

__all__ = ["Calibration", "calibrate", "checked_calibration", "current_calibration", "weights_checksum"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """Turn logits z into probabilities, sigmoid(z / T), and compare these with a threshold for each label.

    The temperature T is above 1 if the model is overconfident, and below 1 if it is underconfident (Guo et al., *On
    Calibration of Modern Neural Networks*, ICML 2017). It does not change AUROC, and it does not correct single labels,
    e.g. one that is overpredicted while others are underpredicted.

    A calibration is valid for images and label frequencies like those of the fit, and for the weights that produced the
    logits. Fit it again after further training.

    `model.calibration` is the one stored with the weights, or None. `save_pretrained(..., calibration=)` stores one.

    Args:
        temperature: Temperature T, above 0.
        thresholds: Calibrated probability in [0, 1] at or above which each label counts as present.

    Raises:
        ValueError: If the temperature is not positive and finite, or thresholds are not numbers from 0 to 1.

    Example:
        >>> logits = [[3.0]] * 4 + [[-3.0]] * 4  # sigmoid(3) is 0.95, but three of four are right
        >>> calibration = Calibration.fit(logits, [[1], [1], [1], [0], [0], [0], [0], [1]])
        >>> round(calibration.temperature, 2)
        2.73
        >>> calibration.probabilities(torch.tensor([[3.0], [-3.0]]))
        tensor([[0.7500],
                [0.2500]])
        >>> calibration.positives([[3.0], [-3.0]])
        tensor([[ True],
                [False]])
    """

    temperature: float
    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        temperature, thresholds = np.asarray(self.temperature), np.asarray(self.thresholds)
        if temperature.shape or temperature.dtype.kind not in "iuf" or not 0 < temperature < np.inf:
            raise ValueError(f"temperature must be a positive number, such as 1.5, but got {self.temperature!r:.200}")
        given = thresholds.ndim == 1 and thresholds.size and thresholds.dtype.kind in "iuf"
        if not given or not ((thresholds >= 0) & (thresholds <= 1)).all():
            raise ValueError(f"thresholds must be numbers from 0 to 1, one per label, but got {self.thresholds!r:.200}")
        object.__setattr__(self, "temperature", float(temperature))  # the dataclass is frozen
        object.__setattr__(self, "thresholds", tuple(thresholds.astype(float).tolist()))

    @classmethod
    def fit(cls, logits: Any, targets: Any, *, criterion: str = "youden") -> "Calibration":
        """Fit the temperature and thresholds on validation images that the model was not trained on.

        The temperature minimises the binary cross-entropy over all known targets. If the minimum is at 0 or at
        infinity, it stays at 1 with a warning. It is at 0 if no logit is below 0 for a positive or above 0 for a
        negative, which is typical of training images or very few images. It is at infinity if the logits contradict the
        targets on average.

        The threshold of a label maximises the criterion on the calibrated probabilities of images with a known target.
        It lies halfway between two probabilities. Among equally good thresholds, the
        highest is used. If all known targets of a label are of one class, or no threshold is better than marking every
        image, the threshold is 0.5, with a warning that lists the indices of these labels.

        Args:
            logits: Logits before the sigmoid; array, tensor or nested list.
            targets: 1 positive, 0 negative, NaN unknown. An unknown target excludes the image for that label only.
            criterion: `"youden"` for Youden's J, sensitivity + specificity - 1 (*Cancer*, 1950), which does not depend
                on prevalence, or `"f1"`, 2 TP / (2 TP + FP + FN), which marks rare findings less often.

        Shape:
            logits and targets: (N, K), or (N,) for a single label, treated as (N, 1).

        Raises:
            ValueError: If shapes differ or are not (N, K), there are no images, logits are NaN or infinite, a target is
                not 0, 1 or NaN, no target is known, or the criterion is unknown.
        """
        check_choice("criterion", criterion, ("youden", "f1"))
        scores, labels = check_inputs(logits, targets, "logits")
        if scores.min() >= 0 and scores.max() <= 1:
            warnings.warn(
                f"the logits range from {scores.min():g} to {scores.max():g}, like probabilities; if they are, pass "
                "the scores before the sigmoid",
                stacklevel=2,
            )
        known = ~np.isnan(labels)
        if not known.any():
            raise ValueError(f"targets must have known values, 0 or 1, but all {labels.size} are NaN (unknown)")
        temperature = _fit_temperature(np.where(labels == 1, scores, -scores)[known])
        probabilities = torch.from_numpy(scores).div(temperature).sigmoid().numpy()
        columns = range(labels.shape[1])
        fitted = [_fit_threshold(probabilities[known[:, k], k], labels[known[:, k], k], criterion) for k in columns]
        if undefined := [k for k in columns if fitted[k] is None]:
            warnings.warn(
                f"no threshold can be fitted for labels {undefined}, using 0.5: their known targets are all of one "
                "class, or no threshold is better than marking every image",
                stacklevel=2,
            )
        return cls(temperature, tuple(0.5 if value is None else value for value in fitted))

    def probabilities(self, logits: Any) -> Tensor:
        """Return the calibrated probabilities (..., K), in at least float32, on the device of the logits.

        The result is in float64 if the logits are not a tensor.

        Args:
            logits: (..., K) finite logits before the sigmoid; tensor, array, data frame or nested list.

        Raises:
            ValueError: If the logits are not finite, or not (..., K) with one label per threshold.
        """
        scores = logits if isinstance(logits, Tensor) else torch.from_numpy(as_floats(logits))
        num_labels = len(self.thresholds)
        if scores.shape[-1:] != (num_labels,):
            raise ValueError(f"logits must have shape (..., K), K={num_labels}, but got {tuple(scores.shape)}")
        if not torch.compiler.is_compiling() and (count := scores.numel() - int(scores.isfinite().sum())):
            raise ValueError(f"logits must be finite, but have NaN or infinity in {count} of {scores.numel()} values")
        return scores.to(torch.promote_types(scores.dtype, torch.float32)).div(self.temperature).sigmoid()

    def positives(self, logits: Any) -> Tensor:
        """Return a boolean tensor (..., K), True where the probability is at or above the threshold.

        Arguments and errors are those of `probabilities`.
        """
        probabilities = self.probabilities(logits)
        return probabilities >= probabilities.new_tensor(self.thresholds)


def _fit_temperature(margins: FloatArray) -> float:
    """Return the T that minimises the mean of log(1 + exp(-margin / T)), a convex problem in 1/T, by bisection.

    The margin is the logit for a positive target, and minus the logit for a negative one.
    """
    reason = ""
    if margins.min() >= 0:
        reason = "no logit contradicts its known target, so the optimum would be 0"
    elif margins.mean() <= 0:
        reason = "on average the logits contradict the known targets, so the optimum would be infinite"
    if reason:
        warnings.warn(f"no temperature can be fitted, using 1: {reason}", stacklevel=3)
        return 1.0
    scale = float(np.abs(margins).max())
    scaled = torch.from_numpy(margins / scale)

    def slope(inverse: float) -> float:
        return -float((scaled * torch.sigmoid(-inverse * scaled)).sum())

    low, high = 0.0, 1.0
    while slope(high) < 0:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 * scale / (low + high)


def _fit_threshold(probabilities: FloatArray, labels: FloatArray, criterion: str) -> float | None:
    """Return the best threshold for one label, or None if there is none."""
    if not len(labels):
        return None
    num_positives = int(labels.sum())
    num_negatives = len(labels) - num_positives
    values, index = np.unique(probabilities, return_inverse=True)
    # Counts of images at or above each value.
    hits, alarms = (np.bincount(index, labels == kind)[::-1].cumsum()[::-1] for kind in (1, 0))
    if criterion == "youden":
        quality = hits * num_negatives - alarms * num_positives  # J times both counts: integers tie exactly
    else:
        quality = 2 * hits / (hits + alarms + num_positives)
    if quality.max() <= quality[0]:  # that of marking every image; also with one class
        return None
    best = len(values) - 1 - int(quality[::-1].argmax())
    below = values[best - 1]
    middle = (below + values[best]) / 2
    return float(middle if middle > below else values[best])  # adjacent floats have no midpoint


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
