"""Training objective for any classifier, so that no small region of an image decides alone."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalcxr._checks import check_count, check_range, check_tensor
from causalcxr.losses import classification_loss
from causalcxr.losses.functional import ElementwiseLoss, cross_entropy, without_reduction
from causalcxr.objectives.classification import freeze_unused

__all__ = ["AgreementObjective"]


class AgreementObjective(nn.Module):
    r"""Training objective against unrecorded confounders: no small region of an image may decide alone.

    A marker is a small region that can determine the prediction alone. Most findings are visible in more than one
    place. Each image is therefore classified twice: unchanged, and with a few boxes borrowed from another image pi(i)
    of the batch. Each box is the one that changes the prediction most, to first order, among randomly drawn places:

    .. math:: \Big| \sum_{p \in \text{box}} \nabla_p z_i \cdot (x_{\pi(i)} - x_i)_p \Big|

    Both views keep the label and should get the same logits:

    .. math:: L = \tfrac{1}{2} \ell(z, y) + \tfrac{1}{2} \ell(\tilde z, y) + \lambda \, \overline{(z - \tilde z)^2}

    You do not need to know the confounder. It must cover a small region, and the finding must be visible elsewhere. If
    the finding is subtle, the model keeps relying on the marker. This method is not in arXiv 2305.12072.

    - A new classifier must start with small weights, as most do. Those of timm's EfficientNets and MobileNets start 10
      to 25 times larger: the agreement then outweighs the labels, and all logits become nearly equal. Call
      `model.reset_classifier(num_classes)` first.
    - A step takes two forward and three backward passes.
    - With several labels, the boxes of each image are chosen for one random label.
    - The agreement covers all labels, including unknown ones and those of weight 0.
    - In evaluation mode, without gradients or for a batch of one, only the first view is used.
    - For a causal model, only the causal branch is trained, as in `ClassificationObjective`.
    - `torch.compile(fullgraph=True)` and reentrant checkpointing do not work, since `forward` computes a gradient.

    Args:
        model: Classifier from images to logits (B, K), differentiable with respect to the images.
        criterion: Multi-label loss to use instead of cross-entropy, see `CausalLoss(classification=...)`.
        strength: Weight lambda of the agreement, 0 or more.
        num_boxes: Number of boxes in the second view.
        size: Range of the box sides, as fractions of the image sides. Boxes should be larger than the marker and
            smaller than the finding.
        num_places: Number of candidate places for each box. With 1, boxes are placed at random.

    Shape:
        - images: (B, C, H, W)
        - targets: (B, K), in [0, 1], NaN where unknown
        - weight: (B, K) weights of the labels, e.g. from `causalcxr.losses.backdoor_weights`
        - Output: dict of scalars `loss`, `sl` and `agreement`

    Raises:
        ValueError: If an option is out of range, or images, logits or targets have the wrong shape.
        TypeError: If images or logits are not floating-point tensors, or the criterion is a class or not callable.

    Example:
        >>> import torch, causalcxr
        >>> objective = AgreementObjective(causalcxr.create_model("causal_test_resnet"))
        >>> losses = objective(torch.randn(4, 3, 64, 64), torch.zeros(4, 14))
        >>> losses["loss"].backward()
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        criterion: ElementwiseLoss = cross_entropy,
        strength: float = 0.3,
        num_boxes: int = 3,
        size: tuple[float, float] = (0.1, 0.35),
        num_places: int = 400,
    ) -> None:
        super().__init__()
        if not 0 <= strength < float("inf"):
            raise ValueError(f"strength must be a finite number of at least 0, but got {strength!r}")
        check_count("num_boxes", num_boxes)
        check_count("num_places", num_places)
        check_range("size", size, example=(0.1, 0.35))
        freeze_unused(model)
        self.model, self.criterion = model, without_reduction(criterion)
        self.strength, self.num_boxes, self.size, self.num_places = strength, num_boxes, size, num_places

    def forward(self, images: Tensor, targets: Tensor, *, weight: Tensor | None = None) -> dict[str, Tensor]:
        """Return the losses of a batch."""
        check_tensor("images", images, "B C H W")
        if not self.training or len(images) < 2 or not torch.is_grad_enabled():
            loss = classification_loss(self.model(images), targets, criterion=self.criterion, weight=weight)
            return {"loss": loss, "sl": loss, "agreement": torch.zeros_like(loss)}
        images = images if images.requires_grad else images.detach().requires_grad_()
        logits = self.model(images)
        check_tensor("logits", logits, "B K", B=len(images))
        followed = torch.randint(logits.shape[1], (len(logits), 1), device=logits.device)
        # Random signs: through batch statistics, each image also moves the logits of all others, opposite to its own.
        sign = 2 * torch.randint(2, (len(logits), 1), device=logits.device) - 1
        (gradient,) = torch.autograd.grad((sign * logits.gather(1, followed)).sum(), images, retain_graph=True)
        others = self.model(self._without_evidence(images, gradient))
        options: dict[str, Any] = {"criterion": self.criterion, "weight": weight}
        sl = (classification_loss(logits, targets, **options) + classification_loss(others, targets, **options)) / 2
        exact = torch.promote_types(logits.dtype, torch.float32)
        agreement = F.mse_loss(others.to(exact), logits.to(exact))
        return {"loss": sl + self.strength * agreement, "sl": sl, "agreement": agreement}

    def _without_evidence(self, images: Tensor, gradient: Tensor) -> Tensor:
        """Return the images with boxes from another image of the batch, where they change the prediction most."""
        lenders = images.roll(int(torch.randint(1, len(images), ())), dims=0)
        change = (gradient * (lenders - images).detach()).sum(dim=1).float()  # of the logit, (B, H, W)
        borrowed = torch.zeros_like(change, dtype=torch.bool)
        for _ in range(self.num_boxes):
            borrowed |= self._strongest_box(change.masked_fill(borrowed, 0.0))
        return torch.where(borrowed[:, None], lenders, images)

    def _strongest_box(self, change: Tensor) -> Tensor:
        """Return the mask (B, H, W) of the drawn box with the largest absolute sum. Borders may crop it."""
        B, H, W = change.shape

        def intervals(length: int) -> tuple[Tensor, Tensor]:
            """Draw the start and end of each box along one axis, (B, places) each."""
            sides = self.size[0] + torch.rand(B, 1, device=change.device) * (self.size[1] - self.size[0])
            centres = torch.rand(B, self.num_places, device=change.device)
            first, last = ((centres + sign * sides / 2) * length for sign in (-1, 1))
            return first.round().clamp(min=0).long(), last.round().clamp(max=length).long()

        (top, bottom), (left, right) = intervals(H), intervals(W)
        image = torch.arange(B, device=change.device)[:, None]
        sums = F.pad(change.cumsum(dim=1).cumsum(dim=2), (1, 0, 1, 0))  # of everything above and left of a corner
        inside = (
            sums[image, bottom, right] - sums[image, top, right] - sums[image, bottom, left] + sums[image, top, left]
        )
        best = inside.abs().argmax(dim=1, keepdim=True)
        rows, columns = (torch.arange(length, device=change.device) for length in (H, W))
        in_rows = (rows >= top.gather(1, best)) & (rows < bottom.gather(1, best))
        in_columns = (columns >= left.gather(1, best)) & (columns < right.gather(1, best))
        return in_rows[:, :, None] & in_columns[:, None, :]
