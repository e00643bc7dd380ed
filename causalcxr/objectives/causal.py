"""The causal training objective as one module: images and targets in, losses out."""

from typing import Any

from torch import Tensor, nn

from causalcxr.layers import ConfounderBank
from causalcxr.losses import CausalLoss
from causalcxr.objectives.classification import train_unused

__all__ = ["CausalObjective"]


class CausalObjective(nn.Module):
    """A causal model and its loss in one module, to train or to wrap in `DistributedDataParallel`.

    With a bank, confounders come from past batches, and those of this batch are stored afterwards.
    Without one, they come from the other images of the batch (of this process). For weight averaging, average `model`,
    not the objective: averaged bank features belong to no image.

    Args:
        model: Model with `forward_causal`, e.g. `CausalCXR`.
        criterion: Loss. Default: `CausalLoss()`.
        bank: Memory of confounder features, or `None`.

    Shape:
        - images: (B, C, H, W)
        - targets: (B, K), in [0, 1], NaN where unknown
        - weight: (B, K) weights of the labels, e.g. from `causalcxr.losses.backdoor_weights`
        - Output: dict of scalars `loss`, `sl`, `conf`, `bd`

    Raises:
        ValueError: As in the model, the loss and the bank.
        TypeError: If the model has no `forward_causal`, or the criterion is not a `CausalLoss`.

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
                f"model must have forward_causal(images, confounders), as models from causalcxr.create_model do, but "
                f"{type(model).__name__} has none; put a causalcxr.CausalHead on its feature map"
            )
        if criterion is not None and not isinstance(criterion, CausalLoss):
            raise TypeError(
                f"criterion must be a causalcxr.losses.CausalLoss, but got {type(criterion).__name__}; pass a bank as "
                "bank=..., and another classification loss as CausalLoss(classification=...)"
            )
        train_unused(model)  # frozen by an earlier objective
        self.model = model
        self.criterion = CausalLoss() if criterion is None else criterion
        self.bank = bank

    def forward(self, images: Tensor, targets: Tensor, *, weight: Tensor | None = None) -> dict[str, Tensor]:
        """Return the losses of a batch. In training mode, the bank then stores its confounders."""
        if self.bank is None:
            return self.criterion(self.model.forward_causal(images), targets, weight=weight)
        # Use all slots, empty ones with P(c) = 0, so that shapes are the same at every step. Clone them, since the bank
        # is overwritten in place before the backward pass.
        confounders, prior = self.bank.stored.clone(), self.bank.slot_prior
        output = self.model.forward_causal(images, confounders)
        losses = self.criterion(output, targets, prior=prior, weight=weight)
        if self.training:
            self.bank.update(output.confounder)
        return losses
