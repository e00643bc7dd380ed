"""Run a function in two `torch.distributed` processes: this one and a second one."""

import time
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_two_processes(work, folder):
    """Call `work` with the rank in both processes, and return both results."""
    other_process = mp.spawn(_as_second, args=(work, folder), nprocs=1, join=False)
    _run(work, 0, folder)
    other_process.join()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _as_second(_, work, folder):
    torch.set_num_threads(1)
    _run(work, 1, folder)


def _run(work, rank, folder):
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timedelta(minutes=10)
    )
    try:
        torch.save(work(rank), folder / f"{rank}.pt")
    finally:
        time.sleep(0.2)  # before torch 2.8, destroying a group that still frees its last tensors may hang
        dist.destroy_process_group()
