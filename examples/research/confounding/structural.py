"""Generated radiographs from a structural causal model whose P(Y | do(X)) is known."""

import copy
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


from causalcxr.data import SyntheticCXR

__all__ = ["DoError", "StructuralCXR", "do_error"]


class StructuralCXR(Dataset[tuple[Tensor, Tensor]]):
    r"""Generated radiographs from the structural causal model D -> X, D -> C, X -> Y, C -> Y.

    The model of Nie et al. (arXiv 2305.12072, Fig. 2), with binary variables. Their D is the image; here it is what X
    and C have in common, and the image is drawn from X and C:

    - D, such as being in intensive care: P(D = 1) = 1/2. It is not seen.
    - X, the finding: planted in the image or not. P(X = 1 | D) = (1 + s) / 2 where D = 1, and (1 - s) / 2 where D = 0.
    - C, the "PORTABLE" stamp: on the film or not. P(C = 1 | D) is that of X; for r < 1/2, that of X with D reversed.
    - Y, the label: P(Y = 1 | X = x, C = c) = `outcome[x][c]`. C reaches the label, as a cause behind the stamp would.

    With s = sqrt(abs(2 r - 1)), P(C = 1 | X = 1) = P(C = 0 | X = 0) = r and P(X = 1) = P(C = 1) = 1/2. The backdoor
    path X <- D -> C -> Y makes what is seen differ from what an intervention does:

    .. math::
        P(Y \mid do(X = x)) = \sum_c P(Y \mid x, c) P(c), \qquad
        P(Y \mid X = x) = \sum_c P(Y \mid x, c) P(c \mid x)

    Args:
        length: Number of films, each of another patient.
        correlation: The share r in [0, 1] of films with the finding that have the stamp, and of those without it that
            have none. 0.5 is no confounding.
        outcome: P(Y = 1 | X = x, C = c) as `outcome[x][c]`. The default is additive in probabilities and in logits.
        finding: Name of the finding X, one of `causalcxr.data.NIH_LABELS`.
        image_size: Side, or (height, width), in pixels.
        seed: Number of the data set.

    Attributes:
        targets: Y, (N, 1) float32.
        finding: X, (N,) int64.
        strata: C, (N,) int64.
        cause: D, (N,) int64.

    Shape:
        Each item is an image (1, H, W), float32 in [0, 1], and its label (1,).

    Raises:
        ValueError: The correlation or an outcome lies outside [0, 1], `outcome` is not 2 x 2, or `SyntheticCXR` does
            not take an argument.

    Example:
        >>> dataset = StructuralCXR(100, correlation=0.9)
        >>> f"{dataset.do_probability(1):.2f} {dataset.conditional_probability(1):.2f}"
        '0.70 0.86'
    """

    def __init__(
        self,
        length: int = 1000,
        *,
        correlation: float = 0.9,
        outcome: Any = ((0.1, 0.5), (0.5, 0.9)),
        finding: str = "Mass",
        image_size: int | tuple[int, int] = 64,
        seed: int = 0,
    ) -> None:
        self.correlation = check_correlation(correlation)
        self.outcome = np.asarray(outcome, dtype=np.float64)
        if self.outcome.shape != (2, 2) or not ((self.outcome >= 0) & (self.outcome <= 1)).all():
            raise ValueError(f"outcome must be four probabilities, outcome[x][c] = P(Y=1|x, c), got {outcome!r}")
        self._films = SyntheticCXR(
            length, image_size=image_size, labels=[finding], prevalence=0.5, images_per_patient=1, seed=seed
        )
        self._noise = stream(seed, STRUCTURE_STREAM).random((len(self._films), 4))
        strength = math.sqrt(abs(2 * self.correlation - 1))
        towards = 1 if self.correlation >= 0.5 else -1
        cause = self._noise[:, 0] < 0.5
        lean = np.where(cause, strength, -strength)
        self.cause = torch.from_numpy(cause).long()
        self.finding = torch.from_numpy(self._noise[:, 1] < (1 + lean) / 2).long()
        self.strata = torch.from_numpy(self._noise[:, 2] < (1 + towards * lean) / 2).long()
        self._draw_labels()

    def _draw_labels(self) -> None:
        labels = self._noise[:, 3] < self.outcome[self.finding.numpy(), self.strata.numpy()]
        self.targets = torch.from_numpy(labels).float()[:, None]

    def __len__(self) -> int:
        return len(self.strata)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._draw(index, bool(self.strata[index])), self.targets[index].clone()

    def mask(self, index: int) -> Tensor:
        """Where the stamp is on a film, (H, W) bool; all False on a film without one."""
        return (self._draw(index, bool(self.strata[index])) != self._draw(index, False))[0]

    def do(self, x: int) -> "StructuralCXR":
        """Intervene: the same films with X set to x and Y following from it, while D, C and all noise stay."""
        _check_value(x)
        changed = copy.copy(self)
        changed.finding = torch.full_like(self.finding, x)
        changed._draw_labels()
        return changed

    def do_probability(self, x: int) -> float:
        """P(Y = 1 | do(X = x)), the sum over c of P(Y = 1 | x, c) P(c)."""
        _check_value(x)
        return float(self.outcome[x].mean())  # P(C = 1) = 1/2

    def conditional_probability(self, x: int) -> float:
        """P(Y = 1 | X = x), the sum over c of P(Y = 1 | x, c) P(c | x)."""
        _check_value(x)
        stamped = self.correlation if x else 1 - self.correlation
        return float((1 - stamped) * self.outcome[x, 0] + stamped * self.outcome[x, 1])

    def _draw(self, index: int, stamped: bool) -> Tensor:
        target, markers = [float(self.finding[index])], ["portable"] if stamped else []
        return self._films.sample(range(len(self))[index], target=target, markers=markers).image


class DoError(NamedTuple):
    """How far predictions are from P(Y | do(X)), from [`do_error`][causalcxr.bench.do_error].

    Attributes:
        bias: Mean of prediction less P(Y = 1 | do(X = x)), for films with x = 0 and with x = 1; NaN where there are
            none. Confounding biases the two in opposite directions, which their common mean would hide.
        absolute: Mean of the absolute difference over all films.
    """

    bias: tuple[float, float]
    absolute: float


def do_error(probabilities: Any, x: Any, dataset: StructuralCXR) -> DoError:
    """Compare predicted probabilities with P(Y | do(X)) of the structural causal model.

    A classifier can read both X and C off the image, so it learns P(Y | x, c) at best. An adjusted prediction has to be
    P(Y | do(X = x)) whatever the stamp.

    Args:
        probabilities: Predictions such as those of `CausalCXR.predict_do`, in [0, 1].
        x: Whether the finding is in the image, zeros and ones: `dataset.finding`.
        dataset: The model that the films are from.

    Shape:
        probabilities and x: (N,) or (N, 1).

    Raises:
        ValueError: Lengths differ, there are no films, probabilities lie outside [0, 1], or x has other values than 0
            and 1.

    Example:
        >>> dataset = StructuralCXR(100, correlation=0.9)
        >>> seen = [dataset.conditional_probability(int(x)) for x in dataset.finding]
        >>> error = do_error(seen, dataset.finding, dataset)
        >>> f"{error.bias[0]:+.2f} {error.bias[1]:+.2f} {error.absolute:.2f}"
        '-0.16 +0.16 0.16'
    """
    finding = check_binary("x", x).numpy()
    predicted = np.asarray(torch.as_tensor(probabilities).detach().cpu().double()).reshape(-1)
    if len(predicted) != len(finding) or len(finding) == 0:
        raise ValueError(f"probabilities must be one an image, for {len(finding)} images, got {len(predicted)}")
    if not ((predicted >= 0) & (predicted <= 1)).all():
        raise ValueError("probabilities must lie in [0, 1]; apply a sigmoid to logits first")
    difference = predicted - np.array([dataset.do_probability(0), dataset.do_probability(1)])[finding]
    bias = [float(difference[finding == value].mean()) if (finding == value).any() else math.nan for value in (0, 1)]
    return DoError((bias[0], bias[1]), float(np.abs(difference).mean()))


def _check_value(x: int) -> None:
    if x not in (0, 1):
        raise ValueError(f"x must be 0 or 1, without or with the finding, got {x!r}")
