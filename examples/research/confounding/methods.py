"""Ways to train against a confounder, all as objectives: a batch in, losses out."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn
from torchvision.transforms.v2 import CutMix

from causalcxr import AgreementObjective, BorrowRegions, CausalObjective
from causalcxr.layers import ConfounderBank
from causalcxr.losses import CausalLoss, classification_loss

from .branches import BorrowByAttention, IndependentBranches, PooledConfounder


class Method(NamedTuple):
    """One way to train.

    Attributes:
        objective: Builds from a model and the strata (N,) of the training images what takes a batch (images, targets),
            its `weight` and, where `takes_strata`, its strata, and returns a dict with the `loss`.
        causal: Whether it takes the causal model, not the plain one.
        arguments: Of the causal model.
        takes_strata: Whether the objective takes the strata of the batch.
        weighted: Whether images are weighted by `backdoor_weights`.
        drawn: Whether images are drawn by `backdoor_weights`, with replacement, instead.
        transform: From images and targets of a batch to those that are trained on.
        crop: Part of each side that the model sees, in the middle.
        clusters: Whether the strata are clusters of the confounding features of a causal model trained before.
        rebalance: Whether the last layer is fitted anew to as many images of each label in each stratum.
    """

    objective: Callable[[nn.Module, Tensor], nn.Module]
    causal: bool = False
    arguments: Mapping[str, Any] = MappingProxyType({})
    takes_strata: bool = False
    weighted: bool = False
    drawn: bool = False
    transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    crop: float = 1.0
    clusters: bool = False
    rebalance: bool = False

    @property
    def knows_confounder(self) -> bool:
        """Whether the recorded confounder may be looked at."""
        return (self.takes_strata and not self.clusters) or self.weighted or self.drawn or self.rebalance


class Plain(nn.Module):
    """Cross-entropy (empirical risk minimisation)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, targets: Tensor, *, weight: Tensor | None = None) -> dict[str, Tensor]:
        return {"loss": classification_loss(self.model(images), targets, weight=weight)}


class GroupDRO(nn.Module):
    """Weights of the four groups of label and stratum that grow where the loss is high (Sagawa et al., ICLR 2020)."""

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


def causal(
    bank_size: int = 1024,
    strata: bool = False,
    pooled: bool = False,
    criterion: type[CausalLoss] = CausalLoss,
    **options: Any,
) -> Callable[..., CausalObjective]:
    """Return the builder of a causal objective; `options` are those of `CausalLoss`.

    One label has no distribution over labels: the confounding branch is driven to a probability of one half.
    """

    def build(model: Any, of_training: Tensor) -> CausalObjective:
        if pooled:
            model.head.decoder = PooledConfounder(model.head.decoder)
        bank = None
        if bank_size:
            prior = (of_training.bincount(minlength=2) / len(of_training)).tolist() if strata else None
            bank = ConfounderBank(
                bank_size, 1, model.head_hidden_size, num_strata=2 if strata else 0, strata_prior=prior
            )
        return CausalObjective(model, criterion(**({"uniform": "bernoulli"} | options)), bank=bank)

    return build


def borrow_by_attention(keep: float, keep_attended: bool) -> Callable[..., nn.Module]:
    return lambda model, of_training: BorrowByAttention(causal()(model, of_training), keep, keep_attended)


def plain(model: nn.Module, of_training: Tensor) -> nn.Module:
    return Plain(model)


def images_only(transform: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return lambda images, targets: (transform(images), targets)


def erase(mode: str) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Two boxes as large as those of `BorrowRegions("boxes")`: filled with the mean (Cutout) or with noise."""
    erasing = RandomErasing(probability=0.8, min_area=0.02, max_area=0.13, mode=mode, min_count=2, device="cpu")
    return images_only(lambda images: erasing(images.clone()))


METHODS = {
    "plain": Method(plain),
    "cutout": Method(plain, transform=erase("const")),
    "random_erasing": Method(plain, transform=erase("pixel")),
    "cutmix": Method(plain, transform=CutMix()),
    "centre_crop": Method(plain, crop=0.7),
    "borrow_boxes": Method(plain, transform=images_only(BorrowRegions("boxes"))),
    "borrow_large_boxes": Method(plain, transform=images_only(BorrowRegions("boxes", size=(0.3, 0.6)))),
    "borrow_thorax": Method(plain, transform=images_only(BorrowRegions("thorax"))),
    "borrow_thorax_always": Method(plain, transform=images_only(BorrowRegions("thorax", probability=1.0))),
    "borrow_both": Method(plain, transform=images_only(nn.Sequential(BorrowRegions("thorax"), BorrowRegions("boxes")))),
    "agreement_random": Method(lambda model, of_training: AgreementObjective(model, num_places=1)),
    "agreement": Method(lambda model, of_training: AgreementObjective(model)),
    "label_queries": Method(causal(0, alpha_conf=0.0, alpha_bd=0.0), causal=True),
    "as_printed": Method(causal(0, partners="random"), causal=True, arguments={"complement": "paper"}),
    "causal": Method(causal(), causal=True),
    "causal_without_conf": Method(causal(alpha_conf=0.0), causal=True),
    "causal_without_bd": Method(causal(0, alpha_bd=0.0), causal=True),
    "causal_pooled": Method(causal(pooled=True), causal=True),
    "causal_independent": Method(causal(criterion=IndependentBranches), causal=True),
    "causal_keep_attended": Method(borrow_by_attention(0.5, keep_attended=True), causal=True),
    "causal_borrow_attended": Method(borrow_by_attention(0.9, keep_attended=False), causal=True),
    "causal_agreement": Method(lambda model, of_training: AgreementObjective(model), causal=True),
    "clusters": Method(lambda model, of_training: GroupDRO(model), takes_strata=True, clusters=True),
    "backdoor_weights": Method(plain, weighted=True),
    "backdoor_sampling": Method(plain, drawn=True),
    "causal_weights": Method(causal(), causal=True, weighted=True),
    "stratified_bank": Method(causal(strata=True), causal=True, takes_strata=True),
    "group_dro": Method(lambda model, of_training: GroupDRO(model), takes_strata=True),
    "last_layer": Method(plain, rebalance=True),
}
