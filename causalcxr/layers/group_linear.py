"""One linear classifier per label."""

import math

import torch
from torch import Tensor, nn

from causalcxr._checks import check_tensor

__all__ = ["GroupLinear"]


class GroupLinear(nn.Module):
    r"""One linear classifier per label, z_k = w_k . h_k + b_k (Phi in arXiv 2305.12072, Eq. 3 and 6).

    The parameters are named `weight` and `bias`, so that timm re-initialises them when the number of labels changes.

    Args:
        num_groups: Number of labels K; 0 for none.
        in_features: Width D of each label's feature.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Shape:
        - Input: (..., K, D)
        - Output: (..., K)

    Raises:
        ValueError: If the last two axes of the input are not (K, D).
        TypeError: If the input is not a floating-point tensor.

    Example:
        >>> import torch
        >>> GroupLinear(14, 256)(torch.randn(2, 14, 256)).shape
        torch.Size([2, 14])
    """

    def __init__(
        self,
        num_groups: int,
        in_features: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_groups, self.in_features = num_groups, in_features
        self.weight = nn.Parameter(torch.empty(num_groups, in_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(num_groups, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise like `torch.nn.Linear`: uniform between -1 / sqrt(D) and 1 / sqrt(D)."""
        bound = 1 / math.sqrt(self.in_features)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (..., K) of label features (..., K, D)."""
        check_tensor("x", x, "... K D", K=self.num_groups, D=self.in_features)
        return torch.einsum("...kd,kd->...k", x, self.weight) + self.bias

    def extra_repr(self) -> str:
        """Return the sizes to print."""
        return f"num_groups={self.num_groups}, in_features={self.in_features}"
