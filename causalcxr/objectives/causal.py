"""The training objective as one module: images and targets in, losses out."""

from typing import Any

from torch import Tensor, nn

from causalcxr.layers import ConfounderBank
from causalcxr.losses import CausalLoss
from causalcxr.objectives.classification import train_unused

__all__ = ["CausalObjective"]


class CausalObjective(nn.Module):
    """A causal model with its loss: the thing to train, and to wrap in `DistributedDataParallel`.

    With a bank, confounders are those of past batches with their P(c), and this batch's are stored afterwards. Without
    one they are those of the other images of the batch (of this process). Average the weights of `model`, not of the
    objective: an average of the bank is of features that no image had.

    Args:
        model: A model with `forward_causal`, such as `CausalCXR`.
        criterion: The loss. Default: `CausalLoss()`.
        bank: Memory of confounder features, or `None`.

    Shape:
        - images: (B, C, H, W)
        - targets: (B, K), in [0, 1], NaN where unknown
        - strata: (B,) integers, the stratum of each image, for a bank with strata
        - weight: (B, K) weights of the labels, as from `causalcxr.losses.backdoor_weights`
        - Output: dict of scalars `loss`, `sl`, `conf`, `bd`

    Raises:
        ValueError: If strata are given without a bank to keep them, and as the model, the loss and the bank do.
        TypeError: If the model has no `forward_causal`, or the criterion is no `CausalLoss`.

    Example:
        >>> import torch, causalcxr
        >>> model = causalcxr.create_model("causal_test_resnet")
        >>> bank = causalcxr.layers.ConfounderBank(64, num_classes=14, dim=model.head_hidden_size)
        >>> objective = CausalObjective(model, causalcxr.losses.CausalLoss(), bank=bank)
        >>> losses = objective(torch.randn(4, 3, 64, 64), torch.zeros(4, 14))
        >>> losses["loss"].backward()
        >>> len(bank)
        4
    """

    model: Any

    def __init__(
        self, model: nn.Module, criterion: CausalLoss | None = None, *, bank: ConfounderBank | None = None
    ) -> None:
        super().__init__()
        if not callable(getattr(model, "forward_causal", None)):
            raise TypeError(
                f"model must have forward_causal(images, confounders), as causalcxr.create_model(...) does, but "
                f"{type(model).__name__} has none; put a causalcxr.CausalHead on its feature map"
            )
        if criterion is not None and not isinstance(criterion, CausalLoss):
            raise TypeError(
                f"criterion must be a causalcxr.losses.CausalLoss, but got {type(criterion).__name__}; give a bank as "
                "bank=..., and another classification loss as CausalLoss(classification=...)"
            )
        train_unused(model)  # what an objective before this one froze
        self.model = model
        self.criterion = CausalLoss() if criterion is None else criterion
        self.bank = bank

    def forward(
        self, images: Tensor, targets: Tensor, strata: Tensor | None = None, *, weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the losses of a batch, see the class; in training the bank then stores its confounders."""
        if self.bank is None:
            if strata is not None:
                raise ValueError("strata need a bank that keeps them; give bank=ConfounderBank(..., num_strata=...)")
            return self.criterion(self.model.forward_causal(images), targets, weight=weight)
        # All slots take part, empty ones with P(c) = 0, so that shapes are the same at every step. A copy, since the
        # bank is overwritten in place before the gradient is taken.
        confounders, prior = self.bank.stored.clone(), self.bank.slot_prior
        output = self.model.forward_causal(images, confounders)
        losses = self.criterion(output, targets, prior=prior, weight=weight)
        if self.training:
            self.bank.update(output.confounder, strata)
        return losses
