"""Part "speed": a causal model against its backbone, the layers against unfolding and loops."""

import bisect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from gpu import layer_rows
from gpu.recording import Record, arguments
from gpu.sides import BANK, NUM_CLASSES, Evaluation, Training, batch_of, build
from gpu.timing import GIB, allocated_gib, autocast, free_memory, interleaved, peak_gib

NIH_TRAIN_VAL = 86_524  # images
SMALL_CARD_GIB = 23.0  # of the 24 of the paper's card; the rest is for the driver


def training(record: Record) -> None:
    _compare(record, Training, "training", 2 if record.args.small else 64, rounds=12)


def evaluation(record: Record) -> None:
    _compare(record, Evaluation, "evaluation", 2 if record.args.small else 64, rounds=20)


def compiled(record: Record) -> None:
    backend = "eager" if record.args.small else "inductor"
    _compare(record, Evaluation, "evaluation, compiled", 2 if record.args.small else 16, rounds=15, backend=backend)


def _names(record: Record) -> tuple[str, str]:
    return ("causal_test_resnet", "test_resnet") if record.args.small else ("causal_resnet101", "resnet101")


def _pixels(record: Record) -> int:
    return 64 if record.args.small else 512


def _compare(record: Record, kind: Any, what: str, batch: int, *, rounds: int, backend: str | None = None) -> None:
    """Add the rows of time and memory of both sides."""
    device, names = record.args.device, _names(record)
    free_memory(device)
    data = batch_of(batch, _pixels(record), device)
    steps, kept = [], []
    for name in names:
        before = allocated_gib(device)
        objective = build(name, device)
        run = objective if kind is Training else objective.model
        step = kind(objective, torch.compile(run, backend=backend) if backend else run, data, device)
        for _ in range(2):
            step()
        steps.append(step)
        kept.append(allocated_gib(device) - before)
    mine, other = interleaved(steps, device, rounds=1 if record.args.small else rounds)
    per_second = {"ours": 1e3 * batch / mine, "backbone": 1e3 * batch / other}
    title = f"{names[0]} {what}, batch {batch}"
    record.row(
        f"{title}, time",
        f"{per_second['ours']:.0f} images/s against {per_second['backbone']:.0f}, time {mine / other:.3f} x",
        milliseconds={"ours": mine, "backbone": other},
        images_a_second=per_second,
        hours_an_epoch=NIH_TRAIN_VAL / per_second["ours"] / 3600,
    )
    if device == "cuda":
        ours, backbone = (held + peak_gib(step, device) for held, step in zip(kept, steps, strict=True))
        shown = f"{ours:.2f} GiB against {backbone:.2f} GiB, {ours / backbone:.3f} x"
        record.row(f"{title}, memory", shown, gib={"ours": ours, "backbone": backbone})


def head_alone(record: Record) -> None:
    """Time the head, and write which kernels it spends its time in."""
    device, names = record.args.device, _names(record)
    free_memory(device)
    batch = 2 if record.args.small else 32
    objective, plain = build(names[0], device), build(names[1], device)
    data = batch_of(batch, _pixels(record), device)
    step, backbone_step = (Training(side, side, data, device) for side in (objective, plain))
    head = objective.model.head
    with torch.no_grad(), autocast(device):
        feature_map = plain.model.forward_features(data[0])
    feature_map = feature_map.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    borrowed = torch.randn(BANK, NUM_CLASSES, objective.model.head_hidden_size, device=device)

    def only_head() -> None:
        with autocast(device):
            output = head(feature_map, confounders=borrowed)
        predictions = (output.logits, output.confounder_logits, output.intervened)
        sum(tensor.float().square().mean() for tensor in predictions).backward()

    rounds = 1 if record.args.small else 10
    milliseconds = interleaved([only_head, step, backbone_step], device, rounds=rounds, ahead=True)
    share = milliseconds[0] / milliseconds[2]
    record.row(
        f"{names[0]}, head alone, forward and backward, batch {batch}",
        f"{milliseconds[0]:.2f} ms, {100 * share:.1f} % of the backbone's step of {milliseconds[2]:.2f} ms",
        milliseconds=dict(zip(("head", "causal_step", "backbone_step"), milliseconds, strict=True)),
    )
    name = f"profile of {names[0]}, head alone, batch {batch}"
    record.row(name, "kernels by their own time", table=_kernels(only_head, device), hidden=True)


def _kernels(function: Callable[[], Any], device: str, count: int = 15) -> list[str]:
    """Return the kernels of one call by self time, a line each: share, milliseconds, calls, name."""
    cuda = device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    function()
    with profile(activities=activities) as profiler:
        function()
        if cuda:
            torch.cuda.synchronize()
    events = []
    for event in profiler.key_averages():
        if cuda and event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        own = event.self_device_time_total if cuda else event.self_cpu_time_total
        events.append((own / 1e3, event.count, event.key))
    total = sum(own for own, _, _ in events) or 1.0
    lines = [
        f"{100 * own / total:5.1f} %  {own:9.3f} ms  {calls:5d} calls  {key[:120]}"
        for own, calls, key in sorted(events, reverse=True)[:count]
    ]
    return [*lines, f"{total:.3f} ms in all, {len(events)} kernels"]


def small_card(record: Record) -> None:
    """Find the largest batch of training in the memory of the paper's card, with and without checkpoints."""
    device, name = record.args.device, _names(record)[0]
    for checkpointing in (True, False):
        free_memory(device)
        if device == "cuda":
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(SMALL_CARD_GIB * GIB / total, 1.0))
        try:
            batch = _largest_batch(record, name, checkpointing=checkpointing)
        finally:
            if device == "cuda":
                torch.cuda.set_per_process_memory_fraction(1.0)
        note = f"in {SMALL_CARD_GIB:g} GiB, {'with' if checkpointing else 'without'} checkpointing"
        record.row(f"{name}, largest batch {note}", f"{batch}", batch=batch)


def _largest_batch(record: Record, name: str, *, checkpointing: bool) -> int:
    device = record.args.device
    objective = build(name, device, checkpointing=checkpointing)
    step = Training(objective, objective, batch_of(4, _pixels(record), device), device)
    step()  # from here on the optimizer has its moments

    def too_large(batch: int) -> bool:
        failed = False
        try:
            step.batch = batch_of(batch, _pixels(record), device)
            for _ in range(2):
                step()
        except RuntimeError as error:  # cuDNN says in other words that it has no memory to work in
            if not any(words in str(error) for words in ("out of memory", "CUDNN_STATUS", "unable to find an engine")):
                raise
            failed = True
        step.batch = ()
        step.optimizer.zero_grad()
        free_memory(device)  # outside of the handler, which holds on to what did not fit
        return failed

    sizes = range(4, 9 if record.args.small else 193, 4)
    fitting = bisect.bisect_left(sizes, True, key=too_large)
    return sizes[fitting - 1] if fitting else 0


if __name__ == "__main__":
    steps = (layer_rows.acmix, layer_rows.cross_attention, layer_rows.intervention, training, evaluation)
    sys.exit(Record("speed", arguments(__doc__)).run([*steps, head_alone, small_card, compiled]))
