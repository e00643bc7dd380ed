"""Scores of a trained classifier on a data set, over one process or several."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

import causalcxr
from causalcxr.data import NIH_LABELS, check_label_names
from provenance import fingerprint
from recipe import Config, build_dataset, build_model


class Scored(NamedTuple):
    """A trained model with its scores on the images of a split."""

    model: nn.Module
    saved: dict[str, Any]  # what the checkpoint and the log say of the training
    dataset: Any
    scores: dict[str, np.ndarray]  # classifier to (N, K), see `predict`

    @property
    def headline(self) -> np.ndarray:
        """Logits (N, K) of the classifier that the model is judged by."""
        return self.scores["plain" if "plain" in self.scores else "causal"]

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return self.saved["config"]["seed"]


def score(checkpoint: Path, split: str, device: str, **changes: Any) -> Scored:
    """Score a `best.pt` of train_nih.py on a split, or read `scores-SPLIT.npz` beside it if that was done before.

    Args:
        checkpoint: Path of the checkpoint, beside its log.
        split: "val" or "test".
        device: Where to score.
        **changes: Options that differ from those of the training, such as `data` and `workers`.
    """
    model, saved = load_checkpoint(checkpoint, device)
    config = Config(**(saved["config"] | changes | {"device": device}))
    dataset = build_dataset(config, split)
    path = checkpoint.with_name(f"scores-{split}.npz")
    key = json.dumps([fingerprint(dataset), saved["commit"], saved["epoch"], saved["config"]], sort_keys=True)
    if not path.exists() or str(np.load(path)["key"]) != key:
        scores = predict(model, dataset, config, f"{checkpoint.parent.name}, {split}")
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, key=key, **scores)
        os.replace(partial, path)
    scores = {name: values for name, values in np.load(path).items() if name not in ("key", "targets")}
    log = [json.loads(line) for line in checkpoint.with_name("log.jsonl").read_text().splitlines()]
    return Scored(model, saved | {"log": log}, dataset, scores)


def check_same_images(one: Scored, other: Scored) -> None:
    """Raise unless two models were scored on the same images and labels."""
    given, expected = fingerprint(one.dataset), fingerprint(other.dataset)
    if given != expected:
        raise ValueError(
            f"{one.saved['config']['output']} has other images than {other.saved['config']['output']}: {given}, not "
            f"{expected}; only models with the same val_fraction and split_seed can be compared"
        )


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
