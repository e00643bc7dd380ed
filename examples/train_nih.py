"""Train a causal classifier, or a plain timm model beside it, on NIH ChestX-ray14 or on generated radiographs.

    python examples/train_nih.py --data path/to/nih --output runs/causal --backbone-weights path/to/backbone.safetensors
    python examples/train_nih.py --data path/to/nih --output runs/plain --model tf_efficientnet_lite0
    torchrun --nproc-per-node 4 examples/train_nih.py --data path/to/nih --output runs/paper --preset paper
    python examples/train_nih.py --data synthetic:2000 --output runs/synthetic --model causal_test_resnet

Run again with the same arguments to go on after the last finished epoch. `output` gets `config.json`, `log.jsonl` (a
line an epoch), `last.pt` (to resume) and `best.pt` (best validation AUROC; for `evaluate_nih.py`).
"""

import dataclasses
import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, StackDataset

from atomic import replacing, write_json, write_text
from augmentation import augment
from causalcxr.data import NIH_LABELS
from causalcxr.metrics import auroc
from processes import process, process_group
from provenance import commit, fingerprint, versions
from recipe import Config, build_dataset, build_model, build_objective, parse_config, start_at_prior
from schedule import one_cycle
from scoring import autocast, predict, prepare, progress


class State:
    """What a run consists of, saved and resumed together."""

    PARTS = ("objective", "ema", "optimizer", "scheduler", "scaler")

    def __init__(self, config: Config, steps_per_epoch: int, targets: Tensor, lists: dict[str, Any]) -> None:
        torch.manual_seed(config.seed)
        self.config, self.lists, self.best = config, lists, -math.inf
        self.log: list[dict[str, Any]] = []  # a record an epoch
        self.commits = [commit()]  # of the code; several for a run that was resumed with other code
        self.model = build_model(config)
        if config.prior_bias:
            start_at_prior(self.model, targets)
        self.model.to(config.device, memory_format=torch.channels_last)
        self.objective = build_objective(config, self.model).to(config.device)
        if process()[1] > 1 and config.device != "cpu":
            self.objective = convert_sync_batchnorm(self.objective)  # timm's, which keeps activations
        self.ema = ModelEmaV3(self.model, decay=config.ema_decay, use_warmup=True)
        self.optimizer = create_optimizer_v2(
            self.model,
            config.optimizer,
            lr=config.lr,
            weight_decay=config.weight_decay,
            layer_decay=config.layer_decay if config.layer_decay < 1 else None,
        )
        rates = [config.lr * group.get("lr_scale", 1.0) for group in self.optimizer.param_groups]
        total = config.epochs * steps_per_epoch
        self.scheduler = one_cycle(self.optimizer, rates, total, config.warmup)
        self.scaler = torch.amp.GradScaler(config.device, enabled=config.amp == "float16")
        self.wrapped: nn.Module = self.objective
        if process()[1] > 1:
            # Only accelerators synchronise batch statistics; elsewhere a step starts from those of the first process.
            broadcast = config.device == "cpu"
            self.wrapped = nn.parallel.DistributedDataParallel(self.objective, broadcast_buffers=broadcast)

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.log)

    def save(self, path: Path) -> None:
        parts = {name: getattr(self, name).state_dict() for name in self.PARTS}
        rest = {name: getattr(self, name) for name in ("best", "log", "commits", "lists")}
        with replacing(path) as partial:
            torch.save(parts | rest | {"config": dataclasses.asdict(self.config)}, partial)

    def write_log(self, path: Path) -> None:
        write_text(path, "".join(f"{json.dumps(record)}\n" for record in self.log))

    def resume(self, path: Path) -> None:
        saved = torch.load(path, map_location=self.config.device, weights_only=True)
        if changed := changed_options(saved["config"], self.config):
            raise ValueError(f"{path} has other arguments, then and now: {changed}; use another --output or the same")
        if saved["lists"] != self.lists:
            raise ValueError(
                f"{path} was trained on other images or labels, then and now: {saved['lists']}, {self.lists}; restore "
                "them, or use another --output"
            )
        for name in self.PARTS:
            getattr(self, name).load_state_dict(saved[name])
        self.best, self.log = saved["best"], saved["log"]
        self.commits = list(dict.fromkeys([*saved["commits"], *self.commits]))

    def save_best(self, path: Path) -> None:
        """Write the averaged model with all that it takes to rebuild and to judge it."""
        bank = getattr(self.objective, "bank", None)
        content = {
            "label_names": list(NIH_LABELS),
            "config": dataclasses.asdict(self.config),
            "log": self.log,
            "epoch": self.epoch,
            "val_auroc": self.best,
            "lists": self.lists,
            "commit": ", ".join(self.commits),
            "processes": process()[1],
            "versions": versions(),
            "state_dict": self.ema.module.state_dict(),
            "bank": None if bank is None else bank.state_dict(),
        }
        with replacing(path) as partial:
            torch.save(content, partial)


def changed_options(then: dict[str, Any], config: Config) -> dict[str, Any]:
    """Return the options that differ from those of a saved run, then and now, without those that change no result."""
    now = dataclasses.asdict(config)
    names = [name for name in then | now if name not in ("output", "workers", "device", "bad_images")]
    either = {name: (then.get(name, "no such option"), now.get(name, "no such option")) for name in names}
    return {name: values for name, values in either.items() if values[0] != values[1]}


def train_epoch(state: "State", loader: DataLoader, epoch: int) -> dict[str, float]:
    """Train one epoch; return the mean of each loss."""
    config, totals, steps = state.config, {}, 0
    state.objective.train()
    if config.freeze_norm:
        for norm in (m for m in state.objective.modules() if isinstance(m, nn.modules.batchnorm._NormBase)):
            norm.eval()
    for (images, targets), indices in progress(loader, f"epoch {epoch + 1}/{config.epochs}"):
        images = augment(images.to(config.device), indices, epoch, **config.augmentation)
        with autocast(config):
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
        nn.utils.clip_grad_norm_(state.objective.parameters(), config.clip_grad or math.inf)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.scheduler.step()
        state.ema.update(state.model, step=state.scheduler.last_epoch)
        steps += 1
        totals = {name: totals.get(name, 0.0) + value for name, value in values.items()}
    mean = torch.tensor(list(totals.values()), device=config.device) / steps
    if process()[1] > 1:
        dist.all_reduce(mean)
        mean /= process()[1]
    return dict(zip(totals, mean.tolist(), strict=True))


def validate(state: State, dataset: Dataset) -> dict[str, float]:
    """Return the mean validation AUROC of each classifier of the averaged model."""
    bank = getattr(state.objective, "bank", None)
    scores = predict(state.ema.module, dataset, state.config, "validation", bank)
    targets = scores.pop("targets")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a small validation part may lack a rare label; it is left out of the mean
        return {name: float(np.nanmean(auroc(values, targets))) for name, values in scores.items()}


def main(argv: list[str] | None = None) -> None:
    config = parse_config(argv)
    with process_group(config.device) as config.device:
        train(config)


def train(config: Config) -> None:
    """Train all epochs that are not done yet."""
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
    lists = {"train": fingerprint(train_set), "val": fingerprint(val_set)}
    state = State(config, len(loader), train_set.targets, lists)
    last, best, new_best = (output / name for name in ("last.pt", "best.pt", "best.pt.new"))
    if last.exists():
        state.resume(last)
    if rank == 0:
        write_json(output / "config.json", dataclasses.asdict(config))
        state.write_log(output / "log.jsonl")
        if new_best.exists():  # the run was stopped between two files: it belongs to a finished epoch, or to none
            finished = torch.load(new_best, weights_only=True, mmap=True)["epoch"] <= state.epoch
            new_best.replace(best) if finished else new_best.unlink()
        print(f"{len(train_set)} training and {len(val_set)} validation images, {len(loader)} steps an epoch")
    for epoch in range(state.epoch, config.epochs):
        # Everything random restarts from (seed, epoch, rank): a resumed run draws what an unbroken one draws.
        torch.manual_seed((config.seed * 100_003 + epoch) * 1_009 + rank)
        sampler.set_epoch(epoch)
        started = time.perf_counter()
        losses = train_epoch(state, loader, epoch)
        seconds = time.perf_counter() - started
        scores = validate(state, val_set)
        record = {"epoch": epoch + 1, "losses": losses, "val_auroc": scores, "seconds": round(seconds, 1)}
        state.log.append(record)
        chosen = scores.get("causal", scores.get("plain"))
        if rank == 0:
            print(json.dumps(record))
            if not chosen <= state.best:  # a NaN, of a validation part without findings, is no reason to keep nothing
                state.best = chosen
                state.save_best(new_best)
            state.save(last)
            if new_best.exists():
                new_best.replace(best)
            state.write_log(output / "log.jsonl")


if __name__ == "__main__":
    main()
