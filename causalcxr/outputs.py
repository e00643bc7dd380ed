"""What the causal head returns."""

from typing import NamedTuple

from torch import Tensor

__all__ = ["CausalOutput"]


class CausalOutput(NamedTuple):
    """The three predictions of the causal head and the features behind them.

    Shape:
        B batch, K labels, S confounder samples, D width, H W feature map.

    Attributes:
        logits: (B, K) causal prediction z_x = Phi_x(h_x), the one that `forward` returns.
        confounder_logits: (B, K) confounder prediction z_c = Phi_c(h_c), trained towards a uniform answer.
        intervened: (B, S, K) predictions Phi(h_x + h_c') with borrowed confounders h_c' (Eq. 6). Column s belongs to
            the given confounder s. Where none were given, each image borrows from the other images of the batch. S is
            then B - 1, and column s of row i belongs to image (i + 1 + s) mod B. For a batch of one, S = 0.
        causal: (B, K, D) causal features h_x.
        confounder: (B, K, D) confounder features h_c.
        attention: (B, K, H, W) softmax attention of the last decoder layer, averaged over heads, or `None` where it was
            not asked for. Each map sums to 1.
    """

    logits: Tensor
    confounder_logits: Tensor
    intervened: Tensor
    causal: Tensor
    confounder: Tensor
    attention: Tensor | None
