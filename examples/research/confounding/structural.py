"""Generated radiographs from a structural causal model whose P(Y | do(X)) is known."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from causalcxr.data import SyntheticCXR

STREAM = 103  # not used by `SyntheticCXR`, so that its films can have the same seed
OUTCOME = np.array([[0.1, 0.5], [0.5, 0.9]])  # P(Y = 1 | X = x, C = c), additive in probabilities and in logits


class StructuralCXR(Dataset[tuple[Tensor, Tensor]]):
    """Films from the structural causal model D -> X, D -> C, X -> Y, C -> Y, all binary.

    This is the model of Nie et al. (arXiv 2305.12072, Fig. 2). Here D, the image in the paper, is the common cause of X
    and C, and the image is drawn from X and C:

    - D, e.g. being in intensive care: P(D = 1) = 1/2. It is not observed.
    - X, a mass in the image or not. P(X = 1 | D) = (1 + s) / 2 if D = 1, and (1 - s) / 2 if D = 0.
    - C, the "PORTABLE" stamp on the film or not. P(C = 1 | D) equals P(X = 1 | D).
    - Y, the label: P(Y = 1 | X = x, C = c) = `OUTCOME[x, c]`. C affects the label, as a cause behind the stamp would.

    With s = sqrt(2 r - 1), P(C = 1 | X = 1) = P(C = 0 | X = 0) = r and P(X = 1) = P(C = 1) = 1/2. The backdoor path
    X <- D -> C -> Y makes observation differ from intervention:

        P(Y | do(X = x)) = sum_c P(Y | x, c) P(c),    P(Y | X = x) = sum_c P(Y | x, c) P(c | x).

    Attributes: `targets` (N, 1) is Y, `finding` (N,) is X, `strata` (N,) is C.
    """

    def __init__(self, length: int, *, correlation: float, seed: int = 0) -> None:
        self.correlation = correlation
        self._films = SyntheticCXR(
            length, image_size=64, labels=["Mass"], prevalence=0.5, images_per_patient=1, seed=seed
        )
        noise = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(STREAM,))).random((length, 4))
        strength = math.sqrt(2 * correlation - 1)
        lean = np.where(noise[:, 0] < 0.5, strength, -strength)
        self.finding = torch.from_numpy(noise[:, 1] < (1 + lean) / 2).long()
        self.strata = torch.from_numpy(noise[:, 2] < (1 + lean) / 2).long()
        labels = noise[:, 3] < OUTCOME[self.finding.numpy(), self.strata.numpy()]
        self.targets = torch.from_numpy(labels).float()[:, None]

    def __len__(self) -> int:
        return len(self.strata)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        markers = ["portable"] if self.strata[index] else []
        film = self._films.sample(index, target=[float(self.finding[index])], markers=markers)
        return film.image, self.targets[index]

    def do_probability(self, x: int) -> float:
        """Return P(Y = 1 | do(X = x))."""
        return float(OUTCOME[x].mean())  # P(C = 1) = 1/2
