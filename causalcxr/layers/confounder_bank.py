"""A memory of confounder features from past batches."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from causalcxr._checks import check_tensor, eager

__all__ = ["ConfounderBank"]


class ConfounderBank(nn.Module):
    r"""First-in, first-out memory of confounder features, the set C of the backdoor adjustment.

    It extends the confounders of arXiv 2305.12072, Eq. 1, beyond one batch and keeps P(c). Without strata every stored
    feature weighs the same. With `num_strata`, each feature is stored with the stratum it came from (view, site,
    device), and `weights` gives the strata their prior P(c) however often each was seen:

    .. math:: w_s = P(c_s) / |\{s' : c_{s'} = c_s\}|, \qquad \sum_s w_s = 1.

    Everything is a buffer: the bank is saved with the state dict of the module that holds it and resumed from it. In
    distributed training `update` gathers the features of all processes, so that each holds the same bank.

    Args:
        size: Number of features it holds at most.
        num_classes: Number of labels K.
        dim: Width D.
        num_strata: Number of strata; 0 for none.
        prior: P(c), one probability for each stratum, adding up to 1. Default: how often each stratum is in the bank.
        device: Device of the buffers.
        dtype: Type of the stored features.

    Raises:
        ValueError: If a size is out of range, the prior is no distribution over the strata, or strata are missing, not
            expected or out of range in `update` (a compiled step does not look at their values).
        TypeError: If features are not of floating point or strata not of integers.

    Example:
        >>> import torch
        >>> bank = ConfounderBank(100, num_classes=14, dim=64, num_strata=2, prior=(0.5, 0.5))
        >>> bank.update(torch.randn(4, 14, 64), torch.tensor([0, 0, 0, 1]))
        >>> len(bank), bank.features.shape, bank.weights
        (4, torch.Size([4, 14, 64]), tensor([0.1667, 0.1667, 0.1667, 0.5000]))
    """

    stored: Tensor
    stored_strata: Tensor
    num_seen: Tensor
    prior: Tensor | None

    def __init__(
        self,
        size: int,
        num_classes: int,
        dim: int,
        *,
        num_strata: int = 0,
        prior: Sequence[float] | Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if min(size, num_classes, dim) < 1 or num_strata < 0:
            raise ValueError(
                "size, num_classes and dim must be positive and num_strata 0 or more, "
                f"but got {size}, {num_classes}, {dim} and {num_strata}"
            )
        self.size, self.num_strata = size, num_strata
        self.register_buffer("stored", torch.zeros(size, num_classes, dim, device=device, dtype=dtype))
        self.register_buffer("stored_strata", torch.zeros(size, dtype=torch.long, device=device))
        self.register_buffer("num_seen", torch.zeros((), dtype=torch.long, device=device))
        self.register_buffer("prior", None if prior is None else self._check_prior(prior).to(device))

    def __len__(self) -> int:
        """Return the number of features that are stored."""
        return min(int(self.num_seen), self.size)

    @property
    def features(self) -> Tensor:
        """Stored features (S, K, D), S = len(bank), in no particular order."""
        return self.stored[: len(self)]

    @property
    def strata(self) -> Tensor:
        """Strata (S,) of the stored features; all 0 without strata."""
        return self.stored_strata[: len(self)]

    @property
    def weights(self) -> Tensor:
        """P(c) for each stored feature, (S,), adding up to 1; strata not stored yet leave their share to the others."""
        return self.slot_weights[: len(self)]

    @property
    def slot_weights(self) -> Tensor:
        """`weights` for all slots, (size,), 0 for those that hold nothing yet.

        With `stored` it has the same shape at every step and is computed without a look at values, so that a compiled
        training step is one graph and is not compiled anew while the bank fills up.
        """
        dtype = torch.promote_types(self.stored.dtype, torch.float32)
        filled = (torch.arange(self.size, device=self.num_seen.device) < self.num_seen).to(dtype)
        if self.prior is None:
            return filled / filled.sum().clamp(min=1)
        counts = filled.new_zeros(self.num_strata).index_add(0, self.stored_strata, filled)
        weights = filled * self.prior.to(dtype)[self.stored_strata] / counts[self.stored_strata].clamp(min=1)
        return weights / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)

    @torch.no_grad()
    def update(self, features: Tensor, strata: Tensor | None = None) -> None:
        """Store the confounder features (B, K, D) of a batch, with their strata (B,) where the bank has strata.

        The oldest features make room. In distributed training this is a collective call: every process must make it.
        """
        check_tensor("features", features, "B K D", K=self.stored.shape[1], D=self.stored.shape[2])
        strata = self._check_strata(strata, len(features))
        features, strata = _gather(features.detach()), _gather(strata.to(features.device))
        features, strata = features[-self.size :], strata[-self.size :]
        slots = (self.num_seen + torch.arange(len(features), device=self.num_seen.device)) % self.size
        self.stored[slots] = features.to(self.stored)
        self.stored_strata[slots] = strata.to(self.stored_strata)
        self.num_seen += len(features)

    def draw(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw `count` features (count, K, D) with replacement by P(c); none, (0, K, D), from an empty bank."""
        weights = self.weights
        if not bool(weights.any()):  # nothing stored yet, or only strata of prior 0
            return self.features[:0]
        weights = weights if generator is None else weights.to(generator.device)
        drawn = weights.multinomial(count, replacement=True, generator=generator)
        return self.features[drawn.to(self.stored.device)]

    def _check_prior(self, prior: Sequence[float] | Tensor) -> Tensor:
        values = torch.as_tensor(prior, dtype=torch.float32).detach().clone()
        is_distribution = bool((values >= 0).all()) and abs(float(values.sum()) - 1) <= 1e-4  # false for NaN as well
        if self.num_strata == 0 or values.shape != (self.num_strata,) or not is_distribution:
            raise ValueError(
                f"prior must hold num_strata={self.num_strata} probabilities that add up to 1, one for each stratum, "
                f"but got {values.tolist()}; without strata (num_strata=0) leave prior out"
            )
        return values

    def _check_strata(self, strata: Tensor | None, batch: int) -> Tensor:
        if (strata is None) == (self.num_strata > 0):
            raise ValueError(
                f"the bank has num_strata={self.num_strata}, but strata were {'not ' if strata is None else ''}given; "
                "build it with num_strata equal to the number of strata and give each feature's stratum, or neither"
            )
        if strata is None:
            return torch.zeros(batch, dtype=torch.long)
        if not isinstance(strata, Tensor) or strata.is_floating_point() or strata.is_complex():
            raise TypeError(
                f"strata must be a tensor of integers, but got {getattr(strata, 'dtype', type(strata).__name__)}"
            )
        if strata.shape != (batch,) or (eager() and bool(((strata < 0) | (strata >= self.num_strata)).any())):
            raise ValueError(
                f"strata must have shape ({batch},) and values from 0 to {self.num_strata - 1}, "
                f"but got shape {tuple(strata.shape)} and values {strata.unique().tolist()[:10]}"
            )
        return strata

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"size={self.size}, num_strata={self.num_strata}"


def _gather(x: Tensor) -> Tensor:
    """Concatenate the rows of all processes, in the order of their ranks; batches may differ in length."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    lengths = [torch.zeros((), dtype=torch.long, device=x.device) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor(len(x), device=x.device))
    counts = [int(length) for length in lengths]
    padded = x.new_zeros(max(counts), *x.shape[1:])
    padded[: len(x)] = x
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return torch.cat([rows[:count] for rows, count in zip(gathered, counts, strict=True)])
