"""Loss modules: the objective of the paper and the asymmetric loss."""

import torch
from torch import Tensor, nn

from causalcxr._checks import check_choice
from causalcxr.losses.functional import (
    ElementwiseLoss,
    asymmetric_loss,
    backdoor_loss,
    check_prior,
    classification_loss,
    cross_entropy,
    uniform_kl_loss,
    without_reduction,
)
from causalcxr.outputs import CausalOutput

__all__ = ["AsymmetricLoss", "CausalLoss"]


class AsymmetricLoss(nn.Module):
    """Module version of `asymmetric_loss`. It can also be the `classification` loss of `CausalLoss`.

    Args:
        gamma_pos: Focusing exponent of positive labels, 0 or more.
        gamma_neg: Focusing exponent of negative labels, 0 or more.
        margin: Probability below which a negative label has zero loss, in [0, 1).
        reduction: `"mean"`, `"sum"` or `"none"`, as in torch's losses.

    Shape:
        - logits, targets: (..., K)
        - Output: a scalar; (..., K) with `reduction="none"`

    Example:
        >>> import torch
        >>> AsymmetricLoss()(torch.randn(2, 14), torch.ones(2, 14)).shape
        torch.Size([])
    """

    def __init__(
        self, *, gamma_pos: float = 0.0, gamma_neg: float = 4.0, margin: float = 0.05, reduction: str = "mean"
    ) -> None:
        super().__init__()
        self.gamma_pos, self.gamma_neg, self.margin, self.reduction = gamma_pos, gamma_neg, margin, reduction

    def forward(self, logits: Tensor, targets: Tensor, *, weight: Tensor | None = None) -> Tensor:
        """Return the loss. See `asymmetric_loss`."""
        options = {"gamma_pos": self.gamma_pos, "gamma_neg": self.gamma_neg, "margin": self.margin}
        return asymmetric_loss(logits, targets, **options, weight=weight, reduction=self.reduction)


class CausalLoss(nn.Module):
    r"""The objective of the causal classifier (arXiv 2305.12072, Eq. 8).

    .. math:: L = L_{sl} + \alpha_1 L_{conf} + \alpha_2 L_{bd}

    The paper samples the sum over confounders in L_bd: each image borrows one confounder, drawn anew at every step.
    `partners="random"` does the same. The expectation of the draw is the full sum.

    Args:
        alpha_conf: Weight alpha_1 of the confounder's divergence from uniform (Eq. 5), 0 or more.
        alpha_bd: Weight alpha_2 of the backdoor loss (Eq. 7), 0 or more.
        classification: Multi-label loss for L_sl (Eq. 4) and L_bd: a module such as
            `nn.BCEWithLogitsLoss(pos_weight=...)` or `AsymmetricLoss()`, whose `reduction` is ignored, or a function
            from logits and targets to the loss of each element. Unknown labels are masked. Default: cross-entropy.
        uniform: `"categorical"` or `"bernoulli"`, see `uniform_kl_loss`. A single label requires `"bernoulli"`.
        partners: `"all"` pairs every image with all confounders, `"random"` with one confounder drawn from P(c).
            Evaluation mode always uses all.

    Shape:
        - output: `CausalOutput`
        - targets: (B, K)
        - Output: dict of scalars `loss`, `sl`, `conf`, `bd`, the last three not yet scaled by alpha

    Raises:
        ValueError: If `alpha_conf` or `alpha_bd` is negative or an option is unknown.
        TypeError: If `classification` is a class or not callable, or `output` is not a `CausalOutput`.

    Example:
        >>> import torch, causalcxr
        >>> head = causalcxr.CausalHead(64, num_classes=3, dim=32)
        >>> losses = CausalLoss()(head(torch.randn(4, 64, 7, 7)), torch.ones(4, 3))
        >>> sorted(losses)
        ['bd', 'conf', 'loss', 'sl']
    """

    def __init__(
        self,
        alpha_conf: float = 1.0,
        alpha_bd: float = 0.5,
        *,
        classification: ElementwiseLoss = cross_entropy,
        uniform: str = "categorical",
        partners: str = "all",
    ) -> None:
        super().__init__()
        if not (alpha_conf >= 0 and alpha_bd >= 0):
            raise ValueError(f"alpha_conf and alpha_bd must be 0 or more, but got {alpha_conf} and {alpha_bd}")
        check_choice("uniform", uniform, ("categorical", "bernoulli"))
        check_choice("partners", partners, ("all", "random"))
        self.alpha_conf, self.alpha_bd = alpha_conf, alpha_bd
        self.classification, self.uniform, self.partners = without_reduction(classification), uniform, partners

    def forward(
        self, output: CausalOutput, targets: Tensor, *, prior: Tensor | None = None, weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the losses.

        Args:
            output: Output of a causal model's `forward_causal` or of a `CausalHead`.
            targets: (B, K) labels in [0, 1], NaN where unknown.
            prior: (S,) or (B, S) probabilities P(c), e.g. `ConfounderBank.slot_prior`. See `backdoor_loss`.
            weight: (B, K) weights of the labels in L_sl and L_bd, e.g. from `backdoor_weights`.
        """
        if not isinstance(output, CausalOutput):
            raise TypeError(
                "output must be what a CausalHead or model.forward_causal(images) returns, but got "
                f"{type(output).__name__}"
            )
        intervened = output.intervened
        if self.partners == "random" and self.training and intervened.shape[1]:
            intervened, prior = _draw_partners(intervened, prior)
        sl = classification_loss(output.logits, targets, criterion=self.classification, weight=weight)
        conf = uniform_kl_loss(output.confounder_logits, uniform=self.uniform)
        bd = backdoor_loss(intervened, targets, prior=prior, criterion=self.classification, weight=weight)
        return {"loss": sl + self.alpha_conf * conf + self.alpha_bd * bd, "sl": sl, "conf": conf, "bd": bd}


def _draw_partners(intervened: Tensor, prior: Tensor | None) -> tuple[Tensor, Tensor]:
    """Draw one confounder (B, 1, K) per image from P(c), and set its prior (B, 1) to 1, or to 0 for an empty bank."""
    batch, num_confounders, _ = intervened.shape
    if prior is None:
        prior = intervened.new_full((num_confounders,), 1 / num_confounders, dtype=torch.float32)
    check_prior(prior, intervened)
    prior = prior.to(intervened.device, torch.float32).expand(batch, -1)
    # Of independent exponential clocks with rates P(c_s), clock s is the first to ring with probability P(c_s).
    # `multinomial` would read values and stall an accelerator.
    partner = (torch.empty_like(prior).exponential_() / prior).argmin(dim=1)
    return intervened.take_along_dim(partner[:, None, None], dim=1), prior.sum(dim=1, keepdim=True) > 0
