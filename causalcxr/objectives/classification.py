"""Plain classification objective for any classifier."""

from torch import Tensor, nn

from causalcxr.losses import classification_loss
from causalcxr.losses.functional import ElementwiseLoss, cross_entropy, without_reduction
from causalcxr.models import CausalHead

__all__ = ["ClassificationObjective", "freeze_unused", "train_unused"]


class ClassificationObjective(nn.Module):
    r"""A classifier and its loss, with the interface of the other objectives (arXiv 2305.12072, Eq. 4).

    .. math:: L = L_{sl}

    For a causal model, only the causal branch, which computes the logits, is trained. The parameters of the confounding
    branch and of the intervention are frozen (`requires_grad=False`), as `DistributedDataParallel` requires.
    `CausalObjective` unfreezes them.

    Args:
        model: Classifier from images to logits (B, K).
        criterion: Multi-label loss to use instead of cross-entropy, see `CausalLoss(classification=...)`.

    Shape:
        - images: (B, C, H, W)
        - targets: (B, K), in [0, 1], NaN where unknown
        - weight: (B, K) weights of the labels, e.g. from `causalcxr.losses.backdoor_weights`
        - Output: dict with the scalar `loss`

    Raises:
        ValueError: If shapes do not match or a target is outside [0, 1], as in `classification_loss`.
        TypeError: If the criterion is a class or not callable, or the logits are not a floating-point tensor.

    Example:
        >>> import timm, torch
        >>> objective = ClassificationObjective(timm.create_model("test_resnet", num_classes=14))
        >>> objective(torch.randn(4, 3, 64, 64), torch.zeros(4, 14))["loss"].backward()
    """

    def __init__(self, model: nn.Module, *, criterion: ElementwiseLoss = cross_entropy) -> None:
        super().__init__()
        freeze_unused(model)
        self.model, self.criterion = model, without_reduction(criterion)

    def forward(self, images: Tensor, targets: Tensor, *, weight: Tensor | None = None) -> dict[str, Tensor]:
        """Return the loss of a batch."""
        return {"loss": classification_loss(self.model(images), targets, criterion=self.criterion, weight=weight)}


def freeze_unused(model: nn.Module) -> None:
    """Freeze the parts of the model's causal heads that do not affect the logits."""
    for part in _unused(model):
        if any(parameter.requires_grad for parameter in part.parameters()):
            part.requires_grad_(False)
            part.frozen_as_unused = True  # type: ignore[assignment]


def train_unused(model: nn.Module) -> None:
    """Unfreeze what `freeze_unused` froze, but nothing that the caller froze."""
    for part in _unused(model):
        if part.__dict__.pop("frozen_as_unused", False):
            part.requires_grad_()


def _unused(model: nn.Module) -> list[nn.Module]:
    heads = (module for module in model.modules() if isinstance(module, CausalHead))
    return [part for head in heads for part in (head.confounder_mlp, head.confounder_classifier, head.intervention)]
