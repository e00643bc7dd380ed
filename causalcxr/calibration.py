"""Scores as probabilities: one temperature for all labels, and a threshold for each, fitted on validation images."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from causalcxr._checks import check_choice
from causalcxr.metrics._inputs import FloatArray, as_floats, check_inputs

__all__ = ["Calibration"]


@dataclass(frozen=True)
class Calibration:
    """What turns logits z into probabilities, sigmoid(z / T), and these into findings.

    The temperature T is above 1 where scores are too extreme, and below 1 where they are too cautious (Guo et al., *On
    Calibration of Modern Neural Networks*, ICML 2017). AUROC stays as it is. A label that is found too often, beside
    others that are found too rarely, stays so.

    Probabilities and thresholds hold for images like those of the fit, with findings as frequent as there, and for the
    weights that made the scores: after more training, fit again.

    `model.calibration` is the one that came with the weights, or None. `save_pretrained(..., calibration=)` stores one.

    Args:
        temperature: T, above 0.
        thresholds: For each label the calibrated probability from which it counts as present, in [0, 1].

    Raises:
        ValueError: If the temperature is not positive and finite, or thresholds are not numbers from 0 to 1.

    Example:
        >>> logits = [[3.0]] * 4 + [[-3.0]] * 4  # sigmoid(3) is 0.95, but three of four are right
        >>> calibration = Calibration.fit(logits, [[1], [1], [1], [0], [0], [0], [0], [1]])
        >>> round(calibration.temperature, 2)
        2.73
        >>> calibration.probabilities([[3.0], [-3.0]])
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
            raise ValueError(f"thresholds must be numbers from 0 to 1, one a label, but got {self.thresholds!r:.200}")
        object.__setattr__(self, "temperature", float(temperature))  # the dataclass is frozen
        object.__setattr__(self, "thresholds", tuple(thresholds.astype(float).tolist()))

    @classmethod
    def fit(cls, logits: Any, targets: Any, *, criterion: str = "youden") -> "Calibration":
        """Fit temperature and thresholds on validation images, which the model was not trained on.

        The temperature minimises the binary cross-entropy over all known targets. There is none if all known targets
        lie on their side of zero (T would be 0: images that the model was trained on, or very few), or if the scores go
        against the targets on the whole (T would be infinite). Then T = 1, with a warning.

        The threshold of a label maximises the criterion on the calibrated probabilities of the images with a known
        target. It lies halfway between two of them, or between the lowest and 0; of cuts that are equally good, the
        highest is taken. A label whose known targets are all of one class, or which no cut finds better than chance,
        has none: 0.5 is taken, with a warning that names such labels by index.

        Args:
            logits: Scores before the sigmoid, of either sign; array, tensor or nested list.
            targets: 1 positive, 0 negative, NaN unknown. An unknown target leaves that image out for that label only.
            criterion: `"youden"` for Youden's J, sensitivity + specificity - 1 (*Cancer*, 1950), which does not depend
                on how frequent a finding is, or `"f1"`, 2 TP / (2 TP + FP + FN), which calls rare findings more rarely.

        Shape:
            logits and targets: (N, K), or (N,) for a single label, which is read as (N, 1).

        Raises:
            ValueError: Shapes that differ or are not (N, K), no images, NaN or infinite logits, a target that is not 0,
                1 or NaN, no known target, an unknown criterion.
        """
        check_choice("criterion", criterion, ("youden", "f1"))
        scores, labels = check_inputs(logits, targets, "logits")
        if scores.min() >= 0 and scores.max() <= 1:
            warnings.warn(
                f"the logits lie from {scores.min():g} to {scores.max():g} like probabilities; if they are, give the "
                "scores before the sigmoid",
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
                f"no threshold can be fitted for labels {undefined}, 0.5 is taken: their known targets are all of one "
                "class, or no cut of their scores is better than chance",
                stacklevel=2,
            )
        return cls(temperature, tuple(0.5 if value is None else value for value in fitted))

    def probabilities(self, logits: Any) -> Tensor:
        """Return the calibrated probabilities (..., K), in float32 at least, on the device of the logits.

        Args:
            logits: (..., K) finite scores before the sigmoid; tensor, array, data frame or nested list.

        Raises:
            ValueError: If the logits are not (..., K), with as many labels as there are thresholds, or not finite.
        """
        given = as_floats(logits) if hasattr(logits, "to_numpy") else logits
        scores, num_labels = torch.as_tensor(given), len(self.thresholds)
        if scores.shape[-1:] != (num_labels,):
            raise ValueError(f"logits must have shape (..., K), K={num_labels}, but got {tuple(scores.shape)}")
        if not torch.compiler.is_compiling() and (count := scores.numel() - int(scores.isfinite().sum())):
            raise ValueError(f"logits must be finite, but have NaN or infinity in {count} of {scores.numel()} values")
        return scores.to(torch.promote_types(scores.dtype, torch.float32)).div(self.temperature).sigmoid()

    def positives(self, logits: Any) -> Tensor:
        """Return which labels count as present, (..., K) of bool: those with a probability at or above their threshold.

        Logits and errors are as in `probabilities`.
        """
        probabilities = self.probabilities(logits)
        return probabilities >= probabilities.new_tensor(self.thresholds)


def _fit_temperature(margins: FloatArray) -> float:
    """Return the T that minimises the mean of log(1 + exp(-margin / T)), a convex problem in 1/T, by bisection.

    A margin is the logit of a positive target, or that of a negative one with the other sign.
    """
    reason = ""
    if margins.min() >= 0:
        reason = "all known targets lie on their side of a logit of zero, so that the best one would be 0"
    elif margins.mean() <= 0:
        reason = "on the whole the logits go against the known targets, so that the best one would be infinite"
    if reason:
        warnings.warn(f"no temperature can be fitted, 1 is taken: {reason}", stacklevel=3)
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
    """Return the best threshold of one label, or None where there is none."""
    num_positives = int(labels.sum())
    num_negatives = len(labels) - num_positives
    if not num_positives or not num_negatives:
        return None
    values, index = np.unique(probabilities, return_inverse=True)
    # Of the images at or above each value.
    hits, alarms = (np.bincount(index, labels == kind)[::-1].cumsum()[::-1] for kind in (1, 0))
    if criterion == "youden":
        quality = hits * num_negatives - alarms * num_positives  # times the product of both: whole numbers tie exactly
        if quality.max() <= 0:
            return None
    else:
        quality = 2 * hits / (hits + alarms + num_positives)
    best = len(values) - 1 - int(quality[::-1].argmax())
    below = values[best - 1] if best else 0.0
    middle = (below + values[best]) / 2
    return float(middle if middle > below else values[best])  # neighbours in floating point have no middle
