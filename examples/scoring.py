"""Scores of a trained classifier on a data set, over one process or several."""

import hashlib
import json
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
from atomic import replacing
from causalcxr.data import NIH_LABELS, check_label_names
from causalcxr.data.transforms import normalise
from causalcxr.layers import ConfounderBank
from processes import process
from provenance import commit, fingerprint, versions
from recipe import Config, build_bank, build_dataset, build_model


class Scored(NamedTuple):
    """The scores of a trained model on the images of a split."""

    checkpoint: Path
    saved: dict[str, Any]  # what the checkpoint says of the training, with its log
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


def load_checkpoint(path: Path, device: str) -> tuple[nn.Module, ConfounderBank | None, dict[str, Any]]:
    """Rebuild a `best.pt` of train_nih.py: the model in evaluation mode, its bank, and what was saved beside them."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    check_label_names(saved["label_names"], NIH_LABELS)
    config = Config(**(saved["config"] | {"backbone_weights": ""}))
    model = build_model(config)
    model.load_state_dict(saved.pop("state_dict"))
    bank = build_bank(config, model)
    if (stored := saved.pop("bank")) is not None:
        bank.load_state_dict(stored)
        bank.to(device)
    return model.to(device).eval(), bank, saved


def score(checkpoint: Path, split: str, device: str, **changes: Any) -> Scored:
    """Score a `best.pt` of train_nih.py on a split, or read `scores-SPLIT.npz` beside it if that was done before.

    Scores are read again only for the same checkpoint, images, folder, code and libraries. They are computed in
    float32, whatever the training was.

    Args:
        checkpoint: Path of the checkpoint.
        split: "val" or "test".
        device: Where to score.
        **changes: Options that differ from those of the training, such as `data` and `workers`.
    """
    model, bank, saved = load_checkpoint(checkpoint, "cpu")
    config = Config(**(saved["config"] | changes | {"device": device, "amp": "none"}))
    dataset = build_dataset(config, split)
    path = checkpoint.with_name(f"scores-{split}.npz")
    made_of = [
        hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        fingerprint(dataset),
        str(Path(config.data).resolve()),
        commit(),
        versions(),
    ]
    key = json.dumps(made_of, sort_keys=True)
    if commit().endswith("-dirty") or not path.exists() or str(np.load(path)["key"]) != key:
        if bank is not None:
            bank.to(device)
        scores = predict(model.to(device), dataset, config, f"{checkpoint.parent.name}, {split}", bank)
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez(file, key=key, **scores)
    scores = {name: values for name, values in np.load(path).items() if name != "key"}
    if not np.array_equal(scores.pop("targets"), dataset.targets.numpy()):
        raise ValueError(f"{path} has other labels than {config.data}, or in another order; delete it")
    log = checkpoint.with_name("log.jsonl").read_text().splitlines()  # of all epochs, not only to the best one
    return Scored(checkpoint, saved | {"log": [json.loads(line) for line in log]}, dataset, scores)


def check_comparable(one: Scored, other: Scored) -> None:
    """Raise unless two models were trained, chosen and scored on the same images and labels."""
    given, expected = (run.saved["lists"] | {"scored": fingerprint(run.dataset)} for run in (one, other))
    for what in given:
        if given[what] != expected[what]:
            raise ValueError(
                f"{one.checkpoint} and {other.checkpoint} cannot be compared, their images ({what}) differ: "
                f"{given[what]} and {expected[what]}; train both with the same data, val_fraction and split_seed"
            )


def prepare(images: Tensor, model: nn.Module) -> Tensor:
    """Normalise radiographs (B, 1, H, W) in [0, 1] as the model's configuration says."""
    return normalise(images, model.pretrained_cfg).contiguous(memory_format=torch.channels_last)


def autocast(config: Config) -> torch.autocast:
    dtype = torch.float16 if config.amp == "float16" else torch.bfloat16
    return torch.autocast(torch.device(config.device).type, dtype, enabled=config.amp != "none")


def progress(loader: DataLoader, description: str) -> Iterator[Any]:
    return tqdm(loader, description, leave=False, disable=process()[0] > 0, dynamic_ncols=True)


@torch.no_grad()
def predict(
    model: nn.Module, dataset: Dataset, config: Config, description: str, bank: ConfounderBank | None = None
) -> dict[str, np.ndarray]:
    """Return the scores (N, K) of every classifier and the targets, each image once, in the order of the data set.

    The classifiers are `plain`, or `causal`, `confounding` and `intervened`: the first two as logits, the last as the
    adjusted probability over the bank, or over the first batches where there is none.
    """
    rank, world = process()
    loader = DataLoader(
        Subset(dataset, range(rank, len(dataset), world)), config.batch_size, num_workers=config.workers
    )
    parts: dict[str, list[Tensor]] = {}
    model.eval()
    for images, targets in progress(loader, description):
        with autocast(config):
            images = prepare(images.to(config.device), model)
            if isinstance(model, causalcxr.CausalCXR):
                output = model.forward_causal(images)
                if bank is None or len(bank) == 0:
                    bank = ConfounderBank(config.batch_size * world, *output.confounder.shape[1:], device=config.device)
                    bank.update(output.confounder)  # of all processes
                intervened = model.head.intervention(output.causal, bank.features).float().sigmoid()
                scores = {
                    "causal": output.logits,
                    "confounding": output.confounder_logits,
                    "intervened": (intervened * bank.prior[:, None]).sum(dim=1),
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
