"""Ways to make more of the causal model's two branches: other branches, independent ones, and what they point at."""

from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from causalcxr import BorrowRegions, CausalObjective
from causalcxr.bench import predict
from causalcxr.losses import CausalLoss
from causalcxr.outputs import CausalOutput


class PooledConfounder(nn.Module):
    """A decoder whose confounding branch is the mean of the feature map: what the complement of attention must beat."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder, self.num_classes = decoder, decoder.num_classes

    def forward(self, encoded: Tensor, **options: Any) -> Any:
        decoded = self.decoder(encoded, **options)
        return decoded._replace(confounder=encoded.mean(dim=(2, 3))[:, None].expand_as(decoded.causal))


class IndependentBranches(CausalLoss):
    """The causal loss, and that causal and confounding features be uncorrelated over the batch."""

    def forward(self, output: CausalOutput, targets: Tensor, **options: Any) -> dict[str, Tensor]:
        losses = super().forward(output, targets, **options)
        dependence = similarity(output.causal.flatten(1), output.confounder.flatten(1))
        return losses | {"loss": losses["loss"] + dependence, "dependence": dependence}


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """Linear centred kernel alignment of features (N, D) and (N, E), in [0, 1] (Kornblith et al., ICML 2019)."""
    first, second = (each - each.mean(dim=0) for each in (first, second))
    within = (first.T @ first).norm() * (second.T @ second).norm()
    return (first.T @ second).square().sum() / within.clamp(min=1e-12)


class BorrowByAttention(nn.Module):
    """The causal objective on images that keep what the model attends to, or what it does not, and borrow the rest.

    The confounding branch attends to the complement, 1 - A, so where it looks is where the causal branch does not.
    """

    def __init__(self, objective: CausalObjective, keep: float, keep_attended: bool) -> None:
        super().__init__()
        self.objective, self.keep_attended = objective, keep_attended
        self.borrow = BorrowRegions("attention", keep=keep)

    def forward(self, images: Tensor, targets: Tensor, *, weight: Tensor | None = None) -> dict[str, Tensor]:
        model = self.objective.model
        model.eval()  # so that batch statistics are of the images that are trained on
        with torch.no_grad():
            attention = model.forward_causal(images, need_attention=True).attention.mean(dim=1)
        model.train(self.training)
        borrowed = self.borrow(images, attention if self.keep_attended else -attention)
        return self.objective(borrowed, targets, weight=weight)


def cluster(model: nn.Module, data: Any, seed: int) -> Tensor:
    """Return two clusters of the confounding features within each class, (N,): strata that nobody named.

    Like Sohoni et al. (NeurIPS 2020), who cluster the features of a plain classifier.
    """
    features = predict(model, data).confounder.numpy()
    targets = data.targets[:, 0].numpy()
    strata = np.zeros(len(targets), dtype=np.int64)
    for value in np.unique(targets):
        members = targets == value
        strata[members] = KMeans(2, n_init=10, random_state=seed).fit_predict(features[members])
    return torch.from_numpy(strata)
