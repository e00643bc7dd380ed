"""Scores of a trained classifier on a data set, over one process or several."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

import causalcxr
from causalcxr.data import NIH_LABELS, check_label_names
from recipe import Config, build_model


def load_checkpoint(path: Path, device: str) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild the model of a `best.pt` of train_nih.py, in evaluation mode; return it with what was saved beside it."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    check_label_names(saved["label_names"], NIH_LABELS)
    model = build_model(Config(**(saved["config"] | {"backbone_weights": ""})))
    model.load_state_dict(saved.pop("state_dict"))
    return model.to(device).eval(), saved


def prepare(images: Tensor, model: nn.Module) -> Tensor:
    """Normalise radiographs (B, 1, H, W) in [0, 1] as the model's configuration says."""
    mean, std = (
        torch.tensor(model.pretrained_cfg[key], dtype=images.dtype, device=images.device).view(1, -1, 1, 1)
        for key in ("mean", "std")
    )
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def process() -> tuple[int, int]:
    """Return the rank of this process and the number of processes."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def autocast(config: Config) -> torch.autocast:
    dtype = torch.float16 if config.amp == "float16" else torch.bfloat16
    return torch.autocast(torch.device(config.device).type, dtype, enabled=config.amp != "none")


def progress(loader: DataLoader, description: str) -> Iterator[Any]:
    return tqdm(loader, description, leave=False, disable=process()[0] > 0, dynamic_ncols=True)


@torch.no_grad()
def predict(model: nn.Module, dataset: Dataset, config: Config, description: str) -> dict[str, np.ndarray]:
    """Return the scores (N, K) of every classifier and the targets, each image once, in the order of the data set.

    The classifiers are `plain`, or `causal`, `confounding` and `intervened`: the first two as logits, the last as the
    mean probability over the confounders of the first images.
    """
    rank, world = process()
    loader = DataLoader(
        Subset(dataset, range(rank, len(dataset), world)), config.batch_size, num_workers=config.workers
    )
    parts: dict[str, list[Tensor]] = {}
    confounders = None
    model.eval()
    for images, targets in progress(loader, description):
        with autocast(config):
            images = prepare(images.to(config.device), model)
            if isinstance(model, causalcxr.CausalCXR):
                if confounders is None:  # borrowed from the first batch by all
                    confounders = model.forward_causal(images).confounder
                output = model.forward_causal(images, confounders)
                scores = {
                    "causal": output.logits,
                    "confounding": output.confounder_logits,
                    "intervened": output.intervened.float().sigmoid().mean(dim=1),
                }
            else:
                scores = {"plain": model(images)}
        for name, value in (scores | {"targets": targets}).items():
            parts.setdefault(name, []).append(value.float().cpu())
    gathered = {name: torch.cat(values).numpy() for name, values in parts.items()}
    if world == 1:
        return gathered
    shards: list[Any] = [None] * world
    dist.all_gather_object(shards, gathered)
    order = np.argsort(np.concatenate([np.arange(r, len(dataset), world) for r in range(world)]))
    return {name: np.concatenate([shard[name] for shard in shards])[order] for name in gathered}
