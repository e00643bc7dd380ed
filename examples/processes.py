"""Training and scoring in several processes that torchrun started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the processes that torchrun started, if it did, and yield the device of this one.

    The group ends before the interpreter does: a worker thread that then still lets go of a tensor needs the lock of
    the interpreter, and aborts without it. The barrier gives it the lock before the group ends, where torch before 2.8
    would keep the lock and wait for the thread for ever.
    """
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    dist.init_process_group("gloo" if device == "cpu" else "nccl")
    if device != "cpu":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    yield device  # without a `finally`: after an error, the others may never come to the barrier
    dist.barrier()
    dist.destroy_process_group()


def process() -> tuple[int, int]:
    """Return the rank of this process and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
