"""Ways to train against a confounder, as objectives that map a batch to losses."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import CutMix

from causalcxr import AgreementObjective, BorrowRegions, CausalObjective, ClassificationObjective
from causalcxr.layers import ConfounderBank
from causalcxr.losses import CausalLoss, classification_loss


class Method(NamedTuple):
    """One way to train.

    Attributes:
        objective: Builds the objective from a model. It accepts a batch (images, targets), its `weight` and, with
            `takes_strata`, its strata, and returns a dict with the `loss`.
        causal: Whether to use the causal model instead of the plain one.
        complement: `complement` of the causal model.
        takes_strata: Whether the objective accepts the strata of the batch.
        weighted: Whether images are weighted by `backdoor_weights`.
        drawn: Whether images are sampled with replacement by `backdoor_weights` instead.
        transform: Maps images and targets of a batch to those used for training.
        rebalance: Whether the last layer is refitted on equally many images of each label in each stratum.
    """

    objective: Callable[[nn.Module], nn.Module] = ClassificationObjective
    causal: bool = False
    complement: str = "normalized"
    takes_strata: bool = False
    weighted: bool = False
    drawn: bool = False
    transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    rebalance: bool = False

    @property
    def knows_confounder(self) -> bool:
        """Whether the method uses the recorded confounder."""
        return self.takes_strata or self.weighted or self.drawn or self.rebalance


class GroupDRO(nn.Module):
    """Group DRO: upweights groups of label and stratum with a high loss (Sagawa et al., ICLR 2020)."""

    def __init__(self, model: nn.Module, step_size: float = 0.01) -> None:
        super().__init__()
        self.model, self.step_size = model, step_size
        self.register_buffer("share", torch.full((4,), 0.25))

    def forward(
        self, images: Tensor, targets: Tensor, strata: Tensor, *, weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        losses = classification_loss(self.model(images), targets, reduction="none")[:, 0]
        group = 2 * targets[:, 0].long() + strata
        count = torch.bincount(group, minlength=4)
        means = losses.new_zeros(4).index_add(0, group, losses) / count.clamp(min=1)
        self.share = self.share * (self.step_size * means.detach()).exp()
        self.share = self.share / self.share.sum()
        return {"loss": (self.share * means).sum()}


def causal(bank_size: int = 1024, **options: Any) -> Callable[[Any], CausalObjective]:
    """Return a builder of a causal objective. `options` are passed to `CausalLoss`.

    A single label has no distribution over labels, so the confounding branch is driven to a probability of one half.
    """

    def build(model: Any) -> CausalObjective:
        bank = ConfounderBank(bank_size, 1, model.head_hidden_size) if bank_size else None
        return CausalObjective(model, CausalLoss(uniform="bernoulli", **options), bank=bank)

    return build


def borrow(regions: str, **options: Any) -> Method:
    transform = BorrowRegions(regions, **options)
    return Method(transform=lambda images, targets: (transform(images), targets))


METHODS = {
    "plain": Method(),
    "cutmix": Method(transform=CutMix()),
    "borrow_boxes": borrow("boxes"),
    "borrow_large_boxes": borrow("boxes", size=(0.3, 0.6)),
    "borrow_thorax": borrow("thorax"),
    "borrow_thorax_always": borrow("thorax", probability=1.0),
    "agreement": Method(AgreementObjective),
    "label_queries": Method(causal(0, alpha_conf=0.0, alpha_bd=0.0), causal=True),
    "as_printed": Method(causal(0, partners="random"), causal=True, complement="paper"),
    "causal": Method(causal(), causal=True),
    "causal_agreement": Method(AgreementObjective, causal=True),
    "backdoor_weights": Method(weighted=True),
    "backdoor_sampling": Method(drawn=True),
    "causal_weights": Method(causal(), causal=True, weighted=True),
    "group_dro": Method(GroupDRO, takes_strata=True),
    "last_layer": Method(rebalance=True),
}
