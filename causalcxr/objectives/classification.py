"""The classification loss alone, for any classifier."""

from torch import Tensor, nn

from causalcxr.losses import classification_loss
from causalcxr.losses.functional import ElementwiseLoss, cross_entropy, without_reduction
from causalcxr.models import CausalHead

__all__ = ["ClassificationObjective", "freeze_unused", "train_unused"]


class ClassificationObjective(nn.Module):
    r"""A classifier with its loss, called as the other objectives are (arXiv 2305.12072, Eq. 4).

    .. math:: L = L_{sl}

    Of a causal model it trains the causal branch alone, which makes the logits. The parameters of the confounding
    branch and of the intervention are frozen (`requires_grad=False`), as `DistributedDataParallel` asks for.
    `CausalObjective` trains them again.

    Args:
        model: A classifier from images to logits (B, K).
        criterion: Multi-label loss in the place of cross-entropy, see `CausalLoss(classification=...)`.

    Shape:
        - images: (B, C, H, W)
        - targets: (B, K), in [0, 1], NaN where unknown
        - weight: (B, K) weights of the labels, as from `causalcxr.losses.backdoor_weights`
        - Output: dict of the scalar `loss`

    Raises:
        ValueError: If shapes do not fit, or a target lies outside [0, 1], as `classification_loss` does.
        TypeError: If the criterion cannot be called or is a class, or the logits are not of floating point.

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
        """Return the loss of a batch, see the class."""
        return {"loss": classification_loss(self.model(images), targets, criterion=self.criterion, weight=weight)}


def freeze_unused(model: nn.Module) -> None:
    """Freeze what the logits of causal heads in the model do not depend on."""
    for part in _unused(model):
        if any(parameter.requires_grad for parameter in part.parameters()):
            part.requires_grad_(False)
            part.frozen_as_unused = True  # type: ignore[assignment]


def train_unused(model: nn.Module) -> None:
    """Train again what `freeze_unused` froze, and nothing that the caller did."""
    for part in _unused(model):
        if part.__dict__.pop("frozen_as_unused", False):
            part.requires_grad_()


def _unused(model: nn.Module) -> list[nn.Module]:
    heads = (module for module in model.modules() if isinstance(module, CausalHead))
    return [part for head in heads for part in (head.confounder_mlp, head.confounder_classifier, head.intervention)]
