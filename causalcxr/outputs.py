"""The output of the causal head."""

from typing import NamedTuple

from torch import Tensor

__all__ = ["CausalOutput"]


class CausalOutput(NamedTuple):
    """The three predictions of the causal head and the features behind them.

    Shape:
        B batch, K labels, S confounder samples, D width, H W feature map.

    Attributes:
        logits: (B, K) causal prediction z_x = Phi_x(h_x), which `forward` returns.
        confounder_logits: (B, K) confounder prediction z_c = Phi_c(h_c), trained towards a uniform distribution.
        intervened: (B, S, K) predictions Phi(h_x + h_c') with borrowed confounders h_c' (Eq. 6). If confounders were
            passed, column s uses confounder s. Otherwise each image borrows from the other images of the batch: S is
            B - 1, and column s of row i uses image (i + 1 + s) mod B. For a batch of one, S is 0.
        causal: (B, K, D) causal features h_x.
        confounder: (B, K, D) confounder features h_c.
        attention: (B, K, H, W) softmax attention of the last decoder layer, averaged over heads. Each map sums to 1.
            `None` unless requested.
    """

    logits: Tensor
    confounder_logits: Tensor
    intervened: Tensor
    causal: Tensor
    confounder: Tensor
    attention: Tensor | None
