"""Backdoor intervention: causal features combined with borrowed confounders."""

import torch
from torch import Tensor, nn

from causalcxr._checks import check_choice, check_tensor
from causalcxr.layers.group_linear import GroupLinear

__all__ = ["BackdoorIntervention"]


class BackdoorIntervention(nn.Module):
    r"""Classify every pair of causal features and borrowed confounders at once (arXiv 2305.12072, Eq. 6).

    .. math:: \hat z_{is} = \Phi(h_x^{(i)} + h_c^{(s)}) = w \cdot h_x^{(i)} + b + w \cdot h_c^{(s)}

    Phi is linear for each label, so the logits of all pairs are the sum of two matrices. This is exact and avoids
    forming the pairs. It also means that a borrowed confounder shifts the logits of all images equally.

    Args:
        num_classes: Number of labels K; 0 for none.
        dim: Width D.
        combine: `"add"` classifies h_x + h_c (Eq. 6), `"cat"` their concatenation, whose logits split in the same way.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Shape:
        - causal: (B, K, D)
        - borrowed: (S, K, D)
        - Output: (B, S, K)

    Raises:
        ValueError: If shapes do not match or an option is unknown.
        TypeError: If the features are not floating-point tensors.

    Example:
        >>> import torch
        >>> intervene = BackdoorIntervention(14, 64)
        >>> intervene(torch.randn(4, 14, 64), torch.randn(100, 14, 64)).shape
        torch.Size([4, 100, 14])
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        combine: str = "add",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice("combine", combine, ("add", "cat"))
        self.dim, self.combine = dim, combine
        in_features = dim * (2 if combine == "cat" else 1)
        self.classifier = GroupLinear(num_classes, in_features, device=device, dtype=dtype)

    def forward(self, causal: Tensor, borrowed: Tensor) -> Tensor:
        """Return the logits (B, S, K) of every image with every borrowed confounder."""
        phi = self.classifier
        check_tensor("causal", causal, "B K D", K=phi.num_groups, D=self.dim)
        check_tensor("confounders", borrowed, "S K D", K=phi.num_groups, D=self.dim)
        # With "add", both are the whole weight. With "cat", they are its halves.
        weight_x, weight_c = phi.weight[:, : self.dim], phi.weight[:, -self.dim :]
        of_causal = torch.einsum("bkd,kd->bk", causal, weight_x) + phi.bias
        of_borrowed = torch.einsum("skd,kd->sk", borrowed.to(causal.dtype), weight_c)
        return of_causal[:, None] + of_borrowed

    def extra_repr(self) -> str:
        """Return the options to print."""
        return f"combine={self.combine!r}"
