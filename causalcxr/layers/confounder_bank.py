"""A memory of confounder features from past batches."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from causalcxr._checks import check_tensor

__all__ = ["ConfounderBank"]


class ConfounderBank(nn.Module):
    """First-in, first-out memory of confounder features, the set C of the backdoor adjustment.

    It extends the confounders of arXiv 2305.12072, Eq. 1, beyond one batch. All stored features are equally probable,
    P(c) = 1 / S.

    All state is in buffers, so the bank is saved and resumed with the state dict of its parent module. In distributed
    training, `update` gathers the features of all processes, so that each holds the same bank. Features that are not
    finite in the data type of the bank are not stored.

    Args:
        size: Maximum number of stored features.
        num_classes: Number of labels K.
        dim: Width D.
        device: Device of the buffers.
        dtype: Data type of the stored features.

    Raises:
        ValueError: If a size is not positive.
        TypeError: If features are not floating-point tensors.

    Example:
        >>> import torch
        >>> bank = ConfounderBank(100, num_classes=14, dim=64)
        >>> bank.update(torch.randn(4, 14, 64))
        >>> len(bank), bank.features.shape
        (4, torch.Size([4, 14, 64]))
    """

    stored: Tensor
    num_seen: Tensor

    def __init__(
        self,
        size: int,
        num_classes: int,
        dim: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if min(size, num_classes, dim) < 1:
            raise ValueError(f"size, num_classes and dim must be positive, but got {size}, {num_classes} and {dim}")
        self.size = size
        self.register_buffer("stored", torch.zeros(size, num_classes, dim, device=device, dtype=dtype))
        self.register_buffer("num_seen", torch.zeros((), dtype=torch.long, device=device))
        self._rows_gathered = 0  # rows per process in a gathered batch, set by the first batch

    def __len__(self) -> int:
        """Return the number of stored features."""
        return min(int(self.num_seen), self.size)

    @property
    def features(self) -> Tensor:
        """Stored features (S, K, D), S = len(bank), in no particular order."""
        return self.stored[: len(self)]

    @property
    def slot_prior(self) -> Tensor:
        """P(c) of every slot, (size,), with 0 for empty slots.

        Like `stored`, it keeps its shape while the bank fills up. This way, a training step never synchronises with the
        device, and a compiled step remains a single graph.
        """
        dtype = torch.promote_types(self.stored.dtype, torch.float32)
        filled = (torch.arange(self.size, device=self.num_seen.device) < self.num_seen).to(dtype)
        return filled / filled.sum().clamp(min=1)

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Store the confounder features (B, K, D) of a batch.

        The oldest features are overwritten. In distributed training, this is a collective call: every process must make
        it, and no later batch may be larger than the largest batch of the first call.
        """
        check_tensor("features", features, "B K D", K=self.stored.shape[1], D=self.stored.shape[2])
        features = features.to(self.stored)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            features = self._gather(features)
        storable = features.isfinite().flatten(1).all(dim=1)
        # Sort the rows to store to the end, keeping their order. They take the next slots. The other rows write back
        # what their slots already hold, so that no shape depends on values.
        newest = storable.long().argsort(stable=True)[-self.size :]
        storable = storable[newest]
        steps = torch.arange(len(newest), device=newest.device) - (~storable).sum()
        slots = (self.num_seen + steps) % self.size
        self.stored[slots] = torch.where(storable[:, None, None], features[newest], self.stored[slots])
        self.num_seen += storable.sum()

    def _gather(self, features: Tensor) -> Tensor:
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
        padded = torch.cat([features, features.new_full((missing, *features.shape[1:]), float("nan"))])
        gathered = [torch.empty_like(padded) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, padded)
        return torch.cat(gathered)

    def extra_repr(self) -> str:
        """Return the size to print."""
        return f"size={self.size}"
