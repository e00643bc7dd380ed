"""Train a causal classifier, or a plain timm model beside it, on NIH ChestX-ray14 or on generated radiographs.

    python examples/train_nih.py --data path/to/nih --output runs/causal --backbone-weights path/to/backbone.safetensors
    python examples/train_nih.py --data path/to/nih --output runs/plain --model tf_efficientnet_lite0
    torchrun --nproc-per-node 4 examples/train_nih.py --data path/to/nih --output runs/paper --preset paper
    python examples/train_nih.py --data synthetic:2000 --output runs/synthetic --model causal_test_resnet

Run again with the same arguments to go on after the last finished epoch. `output` gets `config.json`, `log.jsonl` (a
line an epoch), `last.pt` (to resume) and `best.pt` (best validation AUROC; for `evaluate_nih.py`).
"""

import argparse
import dataclasses
import json
import math
import os
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.distributed as dist
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, StackDataset, Subset
from tqdm import tqdm

import causalcxr
from augmentation import augment
from causalcxr.data import NIH_LABELS, NIHChestXray14, SyntheticCXR
from causalcxr.losses import AsymmetricLoss, CausalLoss, classification_loss
from causalcxr.metrics import auroc


@dataclasses.dataclass
class Config:
    """Everything that decides a run; each field is an argument of the same name."""

    data: str = "synthetic:2000"  # folder in the layout of the NIH release, or synthetic:NUMBER
    output: str = "runs/train"
    preset: str = ""  # "paper": the recipe of arXiv 2305.12072
    model: str = "causal_efficientnet_lite0"  # one of causalcxr.list_models(), or any timm model as a plain classifier
    backbone_weights: str = ""  # path of a file, or "timm" to download
    backbone: str = ""  # for causal_timm
    image_size: int = 128
    epochs: int = 6
    batch_size: int = 64  # over all processes
    optimizer: str = "adamw"
    lr: float = 5e-4  # maximum of the one-cycle schedule
    weight_decay: float = 0.05
    warmup: float = 0.2  # part of the schedule in which the rate rises
    clip_grad: float = 1.0
    ema_decay: float = 0.99
    drop_rate: float = 0.1
    loss: str = "bce"  # or "asymmetric"
    alpha_conf: float = 1.0
    alpha_bd: float = 0.5
    bank_size: int = 1024  # confounders of past batches; 0: those of the batch
    rotate: float = 8.0  # degrees, at most
    scale: float = 0.1  # larger or smaller, at most
    shift: float = 0.05  # part of the side, at most
    contrast: float = 0.15  # stronger or weaker, and brighter or darker, at most
    freeze_norm: bool = False  # leave the batch statistics as they are, for batches of few images a process
    amp: str = "none"  # "bfloat16" or "float16"
    val_fraction: float = 0.1
    seed: int = 0
    workers: int = 2
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    bad_images: str = "raise"  # "skip" to leave unreadable files out

    @property
    def augmentation(self) -> dict[str, Any]:
        """Arguments of `augment`."""
        return {name: getattr(self, name) for name in ("seed", "rotate", "scale", "shift", "contrast")}


PRESETS: dict[str, dict[str, Any]] = {
    "": {},
    "paper": dict(
        model="causal_resnet101", image_size=512, optimizer="adam", lr=1e-3, weight_decay=1e-2, batch_size=16
    ),
}


def parse_config(argv: list[str] | None = None) -> Config:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(Config):
        flag = f"--{field.name.replace('_', '-')}"
        kind = {"action": argparse.BooleanOptionalAction} if field.type is bool else {"type": type(field.default)}
        parser.add_argument(flag, **kind, default=argparse.SUPPRESS, help=f"default: {field.default}")
    given = vars(parser.parse_args(argv))
    preset = given.get("preset", "")
    if preset not in PRESETS:
        parser.error(f"unknown preset {preset!r}; there are {sorted(filter(None, PRESETS))}")
    return Config(**{**PRESETS[preset], **given})


def build_model(config: Config) -> nn.Module:
    """Build the causal model, or the plain timm model that it is compared with."""
    weights: bool | str = True if config.backbone_weights == "timm" else config.backbone_weights
    model_args: dict[str, Any] = {"drop_rate": config.drop_rate}
    if causalcxr.is_model(config.model):
        model_args |= {"backbone": config.backbone} if config.backbone else {}
        return causalcxr.create_model(config.model, pretrained_backbone=weights or False, **model_args)
    model_args["num_classes"] = len(NIH_LABELS)
    overlay = {"file": weights} if isinstance(weights, str) and weights else None
    model = timm.create_model(config.model, pretrained=bool(weights), pretrained_cfg_overlay=overlay, **model_args)
    model.model_args = model_args
    return model


class PlainObjective(nn.Module):
    """The plain classifier with the same classification loss, called as `CausalObjective` is."""

    def __init__(self, model: nn.Module, classification: Any) -> None:
        super().__init__()
        self.model, self.classification = model, classification

    def forward(self, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"loss": self.classification(self.model(images), targets)}


def build_objective(config: Config, model: nn.Module) -> nn.Module:
    classification = {"bce": classification_loss, "asymmetric": AsymmetricLoss()}[config.loss]
    if not isinstance(model, causalcxr.CausalCXR):
        return PlainObjective(model, classification)
    bank = None
    if config.bank_size:
        bank = causalcxr.layers.ConfounderBank(config.bank_size, model.num_classes, model.num_features)
    criterion = CausalLoss(config.alpha_conf, config.alpha_bd, classification=classification)
    return causalcxr.CausalObjective(model, criterion, bank=bank)


def build_dataset(config: Config, split: str) -> Dataset:
    if config.data.startswith("synthetic:"):
        length = int(config.data.removeprefix("synthetic:"))
        number = {"train": length, "val": max(length // 4, 64), "test": max(length // 2, 64)}[split]
        seed = 3 * config.seed + ("train", "val", "test").index(split)  # other radiographs for every split
        return SyntheticCXR(number, image_size=config.image_size, seed=seed)
    options = {"val_fraction": config.val_fraction, "seed": config.seed, "bad_images": config.bad_images}
    return NIHChestXray14(config.data, split, image_size=config.image_size, **options)


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


class State:
    """What a run consists of, saved and resumed together."""

    PARTS = ("objective", "ema", "optimizer", "scheduler", "scaler")
    # Arguments that may differ when a run is resumed: they do not change its result.
    FREE = ("output", "workers", "device", "bad_images")

    def __init__(self, config: Config, steps_per_epoch: int) -> None:
        torch.manual_seed(config.seed)
        self.config, self.epoch, self.best = config, 0, -math.inf
        self.model = build_model(config).to(config.device, memory_format=torch.channels_last)
        self.objective = build_objective(config, self.model).to(config.device)
        if process()[1] > 1 and config.device != "cpu":
            self.objective = nn.SyncBatchNorm.convert_sync_batchnorm(self.objective)
        self.ema = ModelEmaV3(self.model, decay=config.ema_decay, use_warmup=True)
        decay = {"weight_decay": config.weight_decay}
        self.optimizer = create_optimizer_v2(self.model, config.optimizer, lr=config.lr, **decay)
        total = config.epochs * steps_per_epoch
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, config.lr, total, pct_start=config.warmup)
        self.scaler = torch.amp.GradScaler(config.device, enabled=config.amp == "float16")
        self.wrapped: nn.Module = self.objective
        if process()[1] > 1:
            # Only accelerators synchronise batch statistics; elsewhere a step starts from those of the first process.
            broadcast = config.device == "cpu"
            self.wrapped = nn.parallel.DistributedDataParallel(self.objective, broadcast_buffers=broadcast)

    def save(self, path: Path) -> None:
        parts = {name: getattr(self, name).state_dict() for name in self.PARTS}
        config = dataclasses.asdict(self.config)
        write_atomically(path, parts | {"epoch": self.epoch, "best": self.best, "config": config})

    def resume(self, path: Path) -> None:
        saved = torch.load(path, map_location=self.config.device, weights_only=True)
        here, then = dataclasses.asdict(self.config), saved["config"]
        if changed := {k: (v, here[k]) for k, v in then.items() if here[k] != v and k not in self.FREE}:
            raise ValueError(f"{path} has other arguments, then and now: {changed}; use another --output or the same")
        for name in self.PARTS:
            getattr(self, name).load_state_dict(saved[name])
        self.epoch, self.best = saved["epoch"], saved["best"]

    def save_best(self, path: Path) -> None:
        """Write the averaged model with all that it takes to rebuild and to judge it."""
        content = {
            "model": self.config.model,
            "model_args": self.model.model_args,
            "label_names": list(NIH_LABELS),
            "config": dataclasses.asdict(self.config),
            "epoch": self.epoch,
            "val_auroc": self.best,
            "commit": commit(),
            "versions": {"causalcxr": causalcxr.__version__, "torch": str(torch.__version__), "timm": timm.__version__},
            "state_dict": self.ema.module.state_dict(),
        }
        write_atomically(path, content)

    def autocast(self) -> torch.autocast:
        dtype = torch.float16 if self.config.amp == "float16" else torch.bfloat16
        return torch.autocast(torch.device(self.config.device).type, dtype, enabled=self.config.amp != "none")


def progress(loader: DataLoader, description: str) -> Iterator[Any]:
    return tqdm(loader, description, leave=False, disable=process()[0] > 0, dynamic_ncols=True)


def write_atomically(path: Path, content: Any) -> None:
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def commit() -> str:
    """Return the commit of the code that runs, or "unknown" outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def train_epoch(state: "State", loader: DataLoader, epoch: int) -> dict[str, float]:
    """Train one epoch; return the mean of each loss."""
    config, totals, steps = state.config, {}, 0
    state.objective.train()
    if config.freeze_norm:
        for norm in (m for m in state.objective.modules() if isinstance(m, nn.modules.batchnorm._NormBase)):
            norm.eval()
    for (images, targets), indices in progress(loader, f"epoch {epoch + 1}/{config.epochs}"):
        images = augment(images.to(config.device), indices, epoch, **config.augmentation)
        with state.autocast():
            losses = state.wrapped(prepare(images, state.model), targets.to(config.device))
        values = {name: loss.item() for name, loss in losses.items()}
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(
                f"loss is {values} in epoch {epoch + 1}, step {steps + 1}; lower --lr, or use --amp none; "
                f"the last finished epoch is kept in {config.output}"
            )
        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(losses["loss"]).backward()
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.objective.parameters(), config.clip_grad)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.scheduler.step()
        state.ema.update(state.model)
        steps += 1
        totals = {name: totals.get(name, 0.0) + value for name, value in values.items()}
    return {name: total / steps for name, total in totals.items()}


@torch.no_grad()
def predict(state: "State", model: nn.Module, dataset: Dataset, description: str) -> dict[str, np.ndarray]:
    """Return the scores of every classifier and the targets, each image once, in the order of the data set."""
    rank, world = process()
    loader = DataLoader(
        Subset(dataset, range(rank, len(dataset), world)), state.config.batch_size, num_workers=state.config.workers
    )
    parts: dict[str, list[Tensor]] = {}
    confounders = None
    model.eval()
    for images, targets in progress(loader, description):
        with state.autocast():
            images = prepare(images.to(state.config.device), model)
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


def validate(state: State, dataset: Dataset) -> dict[str, float]:
    """Return the mean validation AUROC of each classifier of the averaged model."""
    scores = predict(state, state.ema.module, dataset, "validation")
    targets = scores.pop("targets")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a small validation part may lack a rare label; it is left out of the mean
        return {name: float(np.nanmean(auroc(values, targets))) for name, values in scores.items()}


def main(argv: list[str] | None = None) -> None:
    config = parse_config(argv)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo" if config.device == "cpu" else "nccl")
        if config.device != "cpu":
            config.device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(config.device)
    rank, world = process()
    if config.batch_size % world:
        raise ValueError(
            f"--batch-size is over all processes and must be a multiple of {world}, not {config.batch_size}"
        )
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    train_set, val_set = build_dataset(config, "train"), build_dataset(config, "val")
    sampler = DistributedSampler(train_set, world, rank, shuffle=True, seed=config.seed, drop_last=True)
    numbered = StackDataset(train_set, range(len(train_set)))  # (image, target), index
    share = config.batch_size // world
    loader = DataLoader(numbered, share, sampler=sampler, num_workers=config.workers, drop_last=True)
    if len(loader) == 0:
        raise ValueError(f"{len(train_set)} training images do not fill one batch of {config.batch_size}")
    state = State(config, len(loader))
    if (output / "last.pt").exists():
        state.resume(output / "last.pt")
    log = output / "log.jsonl"
    if rank == 0:
        (output / "config.json").write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
        records = log.read_text().splitlines()[: state.epoch] if log.exists() else []
        log.write_text("".join(f"{record}\n" for record in records))
        print(f"{len(train_set)} training and {len(val_set)} validation images, {len(loader)} steps an epoch")
    for epoch in range(state.epoch, config.epochs):
        # Everything random restarts from (seed, epoch, rank): a resumed run draws what an unbroken one draws.
        torch.manual_seed((config.seed * 100_003 + epoch) * 1_009 + rank)
        sampler.set_epoch(epoch)
        started = time.perf_counter()
        losses = train_epoch(state, loader, epoch)
        seconds = time.perf_counter() - started
        scores = validate(state, val_set)
        state.epoch = epoch + 1
        chosen = scores.get("causal", scores.get("plain"))
        if rank == 0:
            record = {"epoch": epoch + 1, "losses": losses, "val_auroc": scores, "seconds": round(seconds, 1)}
            with log.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(json.dumps(record))
            if not chosen <= state.best:  # a NaN, of a validation part without findings, is no reason to keep nothing
                state.best = chosen
                state.save_best(output / "best.pt")
            state.save(output / "last.pt")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
