"""One run: train a variant, select the epoch on validation films, and score validation and test films."""

import dataclasses
import math
import time
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from causalcxr.data import normalise
from causalcxr.metrics import auroc

from .films import Training, resize
from .pointing import Marked, point
from .variants import VARIANTS, branches, build_model, build_objective, start_at_prior
from .views import Views

LAST_EPOCHS = 3  # validated after each; before them, after every second
EVAL_BATCH = 256
EMA_WARMUP = 0.85  # power of the decay warm-up; timm's default averages fewer than 100 steps in such short runs


@dataclasses.dataclass(frozen=True)
class Setting:
    """The recipe of a run."""

    backbone: str = "causal_efficientnet_lite0"
    image_size: int = 192
    epochs: int = 20
    batch_size: int = 128
    lr: float = 1e-3  # peak of the schedule
    warmup: float = 0.15  # fraction of linear warm-up steps, before a cosine decay
    weight_decay: float = 0.05
    layer_decay: float = 1.0  # learning rate factor from each layer group of the backbone to the one below
    ema_decay: float = 0.995
    drop_rate: float = 0.3
    drop_path_rate: float = 0.0
    views: dict[str, Any] = dataclasses.field(default_factory=dict)  # arguments of `Views`


class Data(NamedTuple):
    """Data shared by all runs of a process, on its device. `val` and `test` are uint8 (N, S, S)."""

    training: Training
    val: Tensor
    val_targets: npt.NDArray[np.float32]
    test: Tensor
    marked: list[Marked]


@torch.no_grad()
def logits_of(model: nn.Module, pixels: Tensor, size: int, autocast: torch.autocast) -> Tensor:
    """Return float32 logits (N, K), on the device, of uint8 films (N, S, S), resized as in `causalcxr.data`."""
    model.eval()
    scored = []
    for part in pixels.split(EVAL_BATCH):
        images = normalise(resize(part, size), model.pretrained_cfg)
        with autocast:
            scored.append(model(images.contiguous(memory_format=torch.channels_last)).float())
    return torch.cat(scored)


@torch.no_grad()
def mean_probabilities(models: Sequence[nn.Module], images: Tensor) -> Tensor:
    """Return the mean probabilities (B, K) of the models for images (B, 1, S, S) in [0, 1]."""
    return torch.stack([model(normalise(images, model.pretrained_cfg)).float().sigmoid() for model in models]).mean(0)


def train(
    job: dict[str, Any],
    data: Data,
    *,
    device: str,
    weights: str,
    start: str,
    output: str,
    teachers: Sequence[nn.Module] = (),
) -> dict[str, Any]:
    """Run one job and return its record. Its weights, in half precision, and its logits go to `output`.

    Test films are scored once, after all epochs, with the saved weights of the best validation epoch. The results are
    not used for any selection. If the loss is not finite, the run is marked as not finished and has no scores.

    Args:
        job: `name`, `variant`, `seed`, `setting` (arguments of `Setting`), `score_test` (whether to score test films).
        data: Films and labels.
        device: Device for training.
        weights: File of backbone weights, or empty.
        start: File of weights of the whole model, or empty.
        output: Path of the files, without the suffixes .safetensors and .npz.
        teachers: Trained models. With any, their mean probabilities for each view replace the labels in the loss.
    """
    setting, variant = Setting(**job["setting"]), VARIANTS[job["variant"]]
    size, kind = setting.image_size, torch.device(device).type
    autocast = torch.autocast(kind, dtype=torch.bfloat16, enabled=kind == "cuda")
    torch.manual_seed(job["seed"])
    draw = np.random.default_rng(job["seed"])
    films, views = data.training, Views(**setting.views)
    weight = films.adjusted_for_view() if variant.adjust_view else films.weight
    model = build_model(
        variant,
        backbone=setting.backbone,
        weights=weights,
        start=start,
        drop_rate=setting.drop_rate,
        drop_path_rate=setting.drop_path_rate,
    )
    if not start:
        start_at_prior(model, films.targets.cpu(), weight.cpu())
    model.to(device, memory_format=torch.channels_last)
    objective = build_objective(variant, model).to(device)
    averaged = ModelEmaV3(model, decay=setting.ema_decay, use_warmup=True, warmup_power=EMA_WARMUP)
    optimizer = create_optimizer_v2(
        model,
        "adamw",
        lr=setting.lr,
        weight_decay=setting.weight_decay,
        layer_decay=setting.layer_decay if setting.layer_decay < 1 else None,
        fused=kind == "cuda",
    )
    count = len(films.targets)
    batch = min(setting.batch_size, count)
    steps = count // batch
    total = steps * setting.epochs
    rise, step = max(round(setting.warmup * total), 1), 0
    warmup = {"warmup_t": rise, "warmup_lr_init": setting.lr / (rise + 1), "warmup_prefix": True}
    schedule = CosineLRScheduler(optimizer, max(total - rise, 1), **warmup, t_in_epochs=False)
    prepare = partial(normalise, cfg=model.pretrained_cfg)
    parameters = [p for p in model.parameters() if p.requires_grad]
    record: dict[str, Any] = {**job, "finished": False, "films": count, "steps_an_epoch": steps, "curve": []}
    if variant.objective == "causal":
        fixed = torch.linspace(0, count - 1, min(64, count)).long()
        resized = torch.cat([resize(part, size) for part in films.of(fixed)])
        record["branches_start"] = branches(model, prepare(resized), films.targets[fixed], objective)
    best, best_state = -math.inf, dict[str, Tensor]()
    for epoch in range(1, setting.epochs + 1):
        epoch_started = time.time()
        objective.train()
        order = torch.randperm(count)  # on the CPU: splitting it by source would synchronise a GPU
        losses = torch.zeros((), device=device)
        for rows in order[: steps * batch].view(steps, batch).sort(dim=1).values:
            drawn = torch.cat([views(part, size, draw) for part in films.of(rows)])
            images = prepare(drawn).contiguous(memory_format=torch.channels_last)
            with autocast:
                wanted = mean_probabilities(teachers, drawn) if teachers else films.targets[rows]
                loss = objective(images, wanted, weight=weight[rows])["loss"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step_update(step := step + 1)
            averaged.update(model, step=step)
            losses += loss.detach()
        mean_loss = float(losses) / steps  # the only synchronisation of an epoch
        of_epoch = {"epoch": epoch, "loss": round(mean_loss, 5), "seconds": round(time.time() - epoch_started, 2)}
        record["curve"].append(of_epoch)
        if not math.isfinite(mean_loss):
            record["problem"] = f"the loss is {mean_loss} in epoch {epoch}"
            break
        if epoch % 2 == 0 or epoch > setting.epochs - LAST_EPOCHS:
            value = mean_auroc(logits_of(averaged.module, data.val, size, autocast), data.val_targets)
            of_epoch["val_auroc"] = round(value, 5)
            if value > best or not best_state:
                best, best_state = value, {k: v.clone() for k, v in averaged.module.state_dict().items()}
                record |= {"best_epoch": epoch, "val_auroc": of_epoch["val_auroc"]}
        print(job["name"], of_epoch, flush=True)
    else:
        record["finished"] = True
    scores: dict[str, npt.NDArray[np.float16]] = {}
    if record["finished"]:
        rounded = {name: _half(value) for name, value in best_state.items()}
        chosen = averaged.module
        chosen.load_state_dict(rounded)  # evaluate the weights as saved
        save_file({name: value.cpu() for name, value in rounded.items()}, f"{output}.safetensors")
        exact = torch.autocast(kind, enabled=False)
        scores["val"] = logits_of(chosen, data.val, size, exact).half().cpu().numpy()
        if job["score_test"]:
            scores["test"] = logits_of(chosen, data.test, size, exact).half().cpu().numpy()
        if job["score_test"] and data.marked:
            rows = [finding.row for finding in data.marked]
            record["pointing"] = point(chosen, resize(data.test[rows], size), data.marked)
    np.savez(f"{output}.npz", **scores)
    return record


def _half(value: Tensor) -> Tensor:
    return (value.half() if value.is_floating_point() else value).contiguous()


def mean_auroc(scores: Tensor, targets: npt.NDArray[np.float32]) -> float:
    """Return the mean AUROC over labels with both classes, or NaN if there are none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(np.nanmean(auroc(scores, targets)))
