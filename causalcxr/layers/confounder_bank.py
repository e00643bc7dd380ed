"""A memory of confounder features from past batches."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from causalcxr._checks import check_strata, check_tensor, readable

__all__ = ["ConfounderBank"]


class ConfounderBank(nn.Module):
    r"""First-in, first-out memory of confounder features, the set C of the backdoor adjustment.

    It extends the confounders of arXiv 2305.12072, Eq. 1, beyond one batch and provides P(c). Without strata, all
    stored features are equally probable. With `num_strata`, each feature is stored with its stratum (e.g. view, site or
    device), and the features of a stratum share its P(c), however often it was seen:

    .. math:: P(c_s) = P(\mathrm{stratum}_s) / |\{s' : \mathrm{stratum}_{s'} = \mathrm{stratum}_s\}|,
       \qquad \sum_s P(c_s) = 1.

    All state is in buffers, so the bank is saved and resumed with the state dict of its parent module. In distributed
    training, `update` gathers the features of all processes, so that each holds the same bank. Features that are not
    finite in the data type of the bank are not stored.

    Args:
        size: Maximum number of stored features.
        num_classes: Number of labels K.
        dim: Width D.
        num_strata: Number of strata; 0 for none.
        strata_prior: P(c) of each stratum, summing to 1. Default: the frequency of each stratum in the bank.
        device: Device of the buffers.
        dtype: Data type of the stored features.

    Raises:
        ValueError: If a size is out of range, `strata_prior` is not a distribution over the strata, or the strata
            passed to `update` are missing, unexpected or out of range (checked on the CPU only, outside compiled code).
        TypeError: If features are not floating-point tensors or strata not integer tensors.

    Example:
        >>> import torch
        >>> bank = ConfounderBank(100, num_classes=14, dim=64, num_strata=2, strata_prior=(0.5, 0.5))
        >>> bank.update(torch.randn(4, 14, 64), torch.tensor([0, 0, 0, 1]))
        >>> len(bank), bank.features.shape, bank.prior
        (4, torch.Size([4, 14, 64]), tensor([0.1667, 0.1667, 0.1667, 0.5000]))
    """

    stored: Tensor
    stored_strata: Tensor
    num_seen: Tensor
    strata_prior: Tensor | None

    def __init__(
        self,
        size: int,
        num_classes: int,
        dim: int,
        *,
        num_strata: int = 0,
        strata_prior: Sequence[float] | Tensor | None = None,
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
        checked = None if strata_prior is None else self._check_prior(strata_prior).to(device)
        self.register_buffer("stored", torch.zeros(size, num_classes, dim, device=device, dtype=dtype))
        self.register_buffer("stored_strata", torch.zeros(size, dtype=torch.long, device=device))
        self.register_buffer("num_seen", torch.zeros((), dtype=torch.long, device=device))
        self.register_buffer("strata_prior", checked)
        self._rows_gathered = 0  # rows per process in a gathered batch, set by the first batch

    def __len__(self) -> int:
        """Return the number of stored features."""
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
    def prior(self) -> Tensor:
        """P(c) of each stored feature, (S,), summing to 1. The share of strata not yet stored goes to the others."""
        return self.slot_prior[: len(self)]

    @property
    def slot_prior(self) -> Tensor:
        """P(c) of every slot, (size,), with 0 for empty slots.

        Like `stored`, it keeps its shape while the bank fills up. So a training step never waits for the device, and a
        compiled step remains a single graph.
        """
        dtype = torch.promote_types(self.stored.dtype, torch.float32)
        filled = (torch.arange(self.size, device=self.num_seen.device) < self.num_seen).to(dtype)
        if self.strata_prior is None:
            return filled / filled.sum().clamp(min=1)
        counts = filled.new_zeros(self.num_strata).index_add(0, self.stored_strata, filled)
        prior = filled * self.strata_prior.to(dtype)[self.stored_strata] / counts[self.stored_strata].clamp(min=1)
        return prior / prior.sum().clamp(min=torch.finfo(dtype).tiny)

    @torch.no_grad()
    def update(self, features: Tensor, strata: Tensor | None = None) -> None:
        """Store the confounder features (B, K, D) of a batch, with their strata (B,) if the bank has strata.

        The oldest features are overwritten. In distributed training, this is a collective call: every process must make
        it, and no later batch may be larger than the largest batch of the first call.
        """
        check_tensor("features", features, "B K D", K=self.stored.shape[1], D=self.stored.shape[2])
        strata = self._check_strata(strata, len(features)).to(self.stored_strata)
        features = features.to(self.stored)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            features, strata = self._gather(features, strata)
        storable = features.isfinite().flatten(1).all(dim=1)
        # Sort the rows to store to the end, keeping their order. They take the next slots. The other rows write back
        # what their slots already hold, so that no shape depends on values.
        newest = storable.long().argsort(stable=True)[-self.size :]
        storable = storable[newest]
        steps = torch.arange(len(newest), device=newest.device) - (~storable).sum()
        slots = (self.num_seen + steps) % self.size
        self.stored[slots] = torch.where(storable[:, None, None], features[newest], self.stored[slots])
        self.stored_strata[slots] = torch.where(storable, strata[newest], self.stored_strata[slots])
        self.num_seen += storable.sum()

    def _gather(self, features: Tensor, strata: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of all processes in rank order, with shorter batches padded with NaN."""
        if not self._rows_gathered:  # the only call that waits for the device
            rows = torch.tensor(len(features), device=features.device)
            dist.all_reduce(rows, dist.ReduceOp.MAX)
            self._rows_gathered = int(rows)
        missing = self._rows_gathered - len(features)
        if missing < 0:
            raise ValueError(
                f"in distributed training, no batch may have more images than the largest of the first step, "
                f"{self._rows_gathered}, but got {len(features)}; start with full batches"
            )
        features = torch.cat([features, features.new_full((missing, *features.shape[1:]), float("nan"))])
        strata = torch.cat([strata, strata.new_zeros(missing)])
        return _all_gather(features), _all_gather(strata)

    def _check_prior(self, strata_prior: Sequence[float] | Tensor) -> Tensor:
        values = torch.as_tensor(strata_prior, dtype=torch.float32).detach().clone()
        is_distribution = bool((values >= 0).all()) and abs(float(values.sum()) - 1) <= 1e-4  # also false for NaN
        if values.shape != (self.num_strata,) or not is_distribution:
            raise ValueError(
                f"strata_prior must hold num_strata={self.num_strata} probabilities that add up to 1, but got "
                f"{values.tolist()}; without strata (num_strata=0) leave strata_prior out"
            )
        return values

    def _check_strata(self, strata: Tensor | None, batch: int) -> Tensor:
        if (strata is None) == (self.num_strata > 0):
            raise ValueError(
                f"the bank has num_strata={self.num_strata}, but strata were {'not ' if strata is None else ''}given; "
                "set num_strata to the number of strata and pass the stratum of each feature, or do neither"
            )
        if strata is None:
            return torch.zeros(batch, dtype=torch.long, device=self.stored_strata.device)
        check_strata(strata, batch)
        if readable(strata) and bool(((strata < 0) | (strata >= self.num_strata)).any()):
            raise ValueError(
                f"strata must have values from 0 to {self.num_strata - 1}, but got {strata.unique().tolist()[:10]}"
            )
        return strata

    def extra_repr(self) -> str:
        """Return the sizes to print."""
        return f"size={self.size}, num_strata={self.num_strata}"


def _all_gather(x: Tensor) -> Tensor:
    gathered = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, x)
    return torch.cat(gathered)
