"""The losses as modules."""

from torch import Tensor, nn

from causalcxr._checks import check_choice
from causalcxr.losses.functional import (
    ClassificationLoss,
    asymmetric_loss,
    backdoor_loss,
    classification_loss,
    uniform_kl_loss,
)
from causalcxr.outputs import CausalOutput

__all__ = ["AsymmetricLoss", "CausalLoss"]


class AsymmetricLoss(nn.Module):
    """`asymmetric_loss` as a module; also a `classification` for `CausalLoss`.

    Args:
        gamma_pos: Focusing exponent of positive labels, 0 or more.
        gamma_neg: Focusing exponent of negative labels, 0 or more.
        margin: Probability below which a negative label costs nothing, in [0, 1).

    Shape:
        - logits, targets: (..., K)
        - Output: a scalar; (..., K) with `reduction="none"`

    Example:
        >>> import torch
        >>> AsymmetricLoss()(torch.randn(2, 14), torch.ones(2, 14)).shape
        torch.Size([])
    """

    def __init__(self, *, gamma_pos: float = 0.0, gamma_neg: float = 4.0, margin: float = 0.05) -> None:
        super().__init__()
        self.gamma_pos, self.gamma_neg, self.margin = gamma_pos, gamma_neg, margin

    def forward(
        self, logits: Tensor, targets: Tensor, *, weight: Tensor | None = None, reduction: str = "mean"
    ) -> Tensor:
        """Return the loss, see `asymmetric_loss`."""
        return asymmetric_loss(
            logits,
            targets,
            gamma_pos=self.gamma_pos,
            gamma_neg=self.gamma_neg,
            margin=self.margin,
            weight=weight,
            reduction=reduction,
        )

    def extra_repr(self) -> str:
        """Options, for printing."""
        return f"gamma_pos={self.gamma_pos}, gamma_neg={self.gamma_neg}, margin={self.margin}"


class CausalLoss(nn.Module):
    r"""The objective of the causal classifier (arXiv 2305.12072, Eq. 8).

    .. math:: L = L_{sl} + \alpha_1 L_{conf} + \alpha_2 L_{bd}

    Args:
        alpha_conf: Weight alpha_1 of the confounder's divergence from uniform (Eq. 5), 0 or more.
        alpha_bd: Weight alpha_2 of the backdoor loss (Eq. 7), 0 or more.
        classification: Multi-label loss of L_sl (Eq. 4) and L_bd, such as `classification_loss` or `AsymmetricLoss()`.
        uniform: `"categorical"` or `"bernoulli"`, see `uniform_kl_loss`.

    Shape:
        - output: `CausalOutput`
        - targets: (B, K)
        - Output: dict of scalars `loss`, `sl`, `conf`, `bd`; the parts as they are before weighting

    Raises:
        ValueError: If a weight is negative or an option unknown.
        TypeError: If what is given is not a `CausalOutput`.

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
        classification: ClassificationLoss = classification_loss,
        uniform: str = "categorical",
    ) -> None:
        super().__init__()
        if not (alpha_conf >= 0 and alpha_bd >= 0):
            raise ValueError(f"alpha_conf and alpha_bd must be 0 or more, but got {alpha_conf} and {alpha_bd}")
        check_choice("uniform", uniform, ("categorical", "bernoulli"))
        self.alpha_conf, self.alpha_bd = alpha_conf, alpha_bd
        self.classification, self.uniform = classification, uniform

    def forward(
        self, output: CausalOutput, targets: Tensor, *, prior: Tensor | None = None, weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the losses.

        Args:
            output: What a causal model's `forward_causal` or a `CausalHead` returned.
            targets: (B, K) labels in [0, 1], NaN where unknown.
            prior: (S,) weights P(c) of the confounders, as from `ConfounderBank.weights`, or (B, S), those of
                each image, see `backdoor_loss`.
            weight: (B, K) weights of the labels in L_sl and L_bd, as from `backdoor_weights`.
        """
        if not isinstance(output, CausalOutput):
            raise TypeError(
                f"output must be what model.forward_causal(images) returns, but got {type(output).__name__}"
            )
        sl = self.classification(output.logits, targets, weight=weight)
        conf = uniform_kl_loss(output.confounder_logits, uniform=self.uniform)
        bd = backdoor_loss(output.intervened, targets, prior=prior, criterion=self.classification, weight=weight)
        return {"loss": sl + self.alpha_conf * conf + self.alpha_bd * bd, "sl": sl, "conf": conf, "bd": bd}

    def extra_repr(self) -> str:
        """Options, for printing."""
        return f"alpha_conf={self.alpha_conf}, alpha_bd={self.alpha_bd}, uniform={self.uniform!r}"
