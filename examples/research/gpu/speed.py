"""Part "speed": the causal models against their backbones, the layers against unfolding and loops."""

import gc
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from gpu import layer_rows
from gpu.recording import Record, arguments
from gpu.sides import BANK, NUM_CLASSES, Evaluation, Training, batch_of, build
from gpu.timing import (
    GIB,
    allocated_gib,
    autocast,
    flops,
    free_memory,
    interleaved,
    matrix_rate,
    peak_gib,
    ratio,
    times,
)

NIH_TRAIN_VAL = 86_524  # images
SMALL_CARD_GIB = 23.0  # of the 24 of the paper's card; the rest is for the driver
BATCHES = (64, 48, 32, 16)
COMPILED_BATCH = 16  # four processes share the card
GOALS = {"training": 1.10, "memory": 1.10, "evaluation": 1.08, "batch": 16}


def matrix(record: Record) -> None:
    """Measure what the card's matrix units give."""
    size = 256 if record.args.small else 8192
    rate = matrix_rate(record.args.device, size=size)
    record.content["matrix_rate"] = rate
    record.row(f"matrix product, bfloat16, {size}^3", f"{rate / 1e12:.1f} TFLOP/s", operations_a_second=rate)


def models(record: Record, name: str) -> None:
    """Training step and evaluation of a causal model and of its backbone, at a batch that fills the card."""
    sides = _names(record, name)
    for batch in (2,) if record.args.small else BATCHES:
        if _attempt(partial(_training, record, sides, batch)):
            record.content.setdefault("batch", {})[name] = batch
            break
        record.row(f"{sides[0]} training, batch {batch}", "does not fit", hidden=True)
    _evaluation(record, sides, 2 if record.args.small else 64)


def _names(record: Record, name: str) -> tuple[str, str]:
    backbone = "test_resnet" if record.args.small else name
    return f"causal_{backbone}", backbone


def _pixels(record: Record) -> int:
    return 64 if record.args.small else 512


def _attempt(run: Callable[[], None]) -> bool:
    """Run, and say whether the memory sufficed."""
    fits = True
    try:
        run()
    except RuntimeError as error:  # cuDNN says in other words that it has no memory to work in
        if not any(words in str(error) for words in ("out of memory", "CUDNN_STATUS", "unable to find an engine")):
            raise
        fits = False
    gc.collect()  # outside of the handler, which holds on to what did not fit
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return fits


def _sides(
    record: Record, names: tuple[str, str], kind: Any, batch: int, *, checkpointing: bool = False
) -> tuple[list[Any], list[float]]:
    """Build both sides and run each twice. Returns them, and the memory that each keeps between steps."""
    device = record.args.device
    data = batch_of(batch, _pixels(record), device)
    steps, resident = [], []
    for name in names:
        before = allocated_gib(device)
        objective = build(name, device, checkpointing=checkpointing)
        step = kind(objective, objective if kind is Training else objective.model, data, device)
        for _ in range(2):
            step()
        steps.append(step)
        resident.append(allocated_gib(device) - before)
    return steps, resident


def _training(
    record: Record, names: tuple[str, str], batch: int, *, checkpointing: bool = False, note: str = ""
) -> None:
    device, small = record.args.device, record.args.small
    steps, resident = _sides(record, names, Training, batch, checkpointing=checkpointing)
    mine, other = interleaved(steps, device, rounds=1 if small else 12, warmup=1 if small else 2)
    transient = [peak_gib(step, device) for step in steps]
    what = f"{names[0]} training, batch {batch}{note}"
    per_second = {"ours": 1e3 * batch / mine, "backbone": 1e3 * batch / other}
    step_ratio = mine / other
    record.row(
        f"{what}, time",
        f"{per_second['ours']:.0f} images/s against {per_second['backbone']:.0f}, step {times(step_ratio)}",
        goal=f"<= {GOALS['training']}",
        met=None if small else step_ratio <= GOALS["training"],
        milliseconds={"ours": mine, "backbone": other},
        images_a_second=per_second,
        hours_an_epoch=NIH_TRAIN_VAL / per_second["ours"] / 3600,
        batch=batch,
        model=names[0],
    )
    if transient[0] is not None:
        peak = [kept + needed for kept, needed in zip(resident, transient, strict=True)]
        share = ratio(*peak)
        record.row(
            f"{what}, memory",
            f"{peak[0]:.2f} GiB against {peak[1]:.2f} GiB, {times(share)}",
            goal=f"<= {GOALS['memory']}",
            met=share <= GOALS["memory"],
            gib={"ours": peak[0], "backbone": peak[1]},
        )
    _use(record, what, steps, (mine, other), per_second["ours"])


def _evaluation(record: Record, names: tuple[str, str], batch: int) -> None:
    device, small = record.args.device, record.args.small
    steps, resident = _sides(record, names, Evaluation, batch)
    mine, other = interleaved(steps, device, rounds=1 if small else 20, warmup=1 if small else 3)
    transient = [peak_gib(step, device) for step in steps]
    what = f"{names[0]} evaluation, batch {batch}"
    per_second = {"ours": 1e3 * batch / mine, "backbone": 1e3 * batch / other}
    peak = [None if needed is None else kept + needed for kept, needed in zip(resident, transient, strict=True)]
    record.row(
        f"{what}, time",
        f"{per_second['ours']:.0f} images/s against {per_second['backbone']:.0f}, {times(mine / other)}",
        goal=f"<= {GOALS['evaluation']}",
        met=None if small else mine / other <= GOALS["evaluation"],
        milliseconds={"ours": mine, "backbone": other},
        images_a_second=per_second,
        gib={"ours": peak[0], "backbone": peak[1]},
        memory_ratio=ratio(*peak),
    )


def _use(record: Record, what: str, steps: list[Any], time_of: tuple[float, float], images_a_second: float) -> None:
    """Add the share of the matrix rate and the hours of an epoch."""
    rate = record.content.get("matrix_rate")
    operations = [flops(step) for step in steps]
    shares = [1e3 * count / time_ / rate for count, time_ in zip(operations, time_of, strict=True)] if rate else []
    hours = NIH_TRAIN_VAL / images_a_second / 3600
    record.row(
        f"{what}, use",
        f"{' against '.join(f'{100 * share:.1f} %' for share in shares) or 'unknown share'} of the matrix rate; "
        f"{hours:.2f} h for an epoch of {NIH_TRAIN_VAL:,} images",
        operations={"ours": operations[0], "backbone": operations[1]},
        share_of_matrix_rate=shares,
        hours_an_epoch=hours,
    )


def profiles(record: Record) -> None:
    """Write which kernels a training step spends its time in, and those of the head alone."""
    device, small = record.args.device, record.args.small
    names = _names(record, "resnet101")
    batch, pixels = (2, 64) if small else (32, 512)
    objective = build(names[0], device)
    data = batch_of(batch, pixels, device)
    step = Training(objective, objective, data, device)
    head, plain = objective.model.head, build(names[1], device)
    with torch.no_grad(), autocast(device):
        feature_map = plain.model.forward_features(data[0])
    feature_map = feature_map.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    whole = Training(plain, plain, data, device)
    borrowed = torch.randn(BANK, NUM_CLASSES, objective.model.head_hidden_size, device=device)

    def only_head() -> None:
        with autocast(device):
            output = head(feature_map, confounders=borrowed)
        predictions = (output.logits, output.confounder_logits, output.intervened)
        sum(tensor.float().square().mean() for tensor in predictions).backward()

    rounds = 1 if small else 10
    milliseconds = interleaved([only_head, step, whole], device, rounds=rounds, warmup=2, ahead=True)
    share = milliseconds[0] / milliseconds[2]
    record.row(
        f"{names[0]}, head alone, forward and backward, batch {batch}",
        f"{milliseconds[0]:.2f} ms, {100 * share:.1f} % of the backbone's step of {milliseconds[2]:.2f} ms",
        milliseconds=dict(zip(("head", "causal_step", "backbone_step"), milliseconds, strict=True)),
    )
    for what, function in (("training step", step), ("head alone", only_head)):
        lines = _kernels(function, device)
        name = f"profile of {names[0]}, {what}, batch {batch}"
        record.row(name, "kernels by their own time", table=lines, hidden=True)
        print("\n".join([name, *lines]), flush=True)


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


def largest_batch(fits: Callable[[int], bool], *, step: int = 4, limit: int = 256) -> int:
    """Return the largest multiple of `step` up to `limit` that fits, 0 for none."""
    low, high = 0, step
    while high <= limit and fits(high):
        low, high = high, 2 * high
    high = min(high, limit + step)
    while high - low > step:
        middle = (low + high) // 2 // step * step
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def small_card(record: Record) -> None:
    """Find the largest batch of `causal_resnet101` in the memory of the paper's card, with and without checkpoints."""
    device, small = record.args.device, record.args.small
    names = _names(record, "resnet101")
    for checkpointing in (True, False):
        note = f" in {SMALL_CARD_GIB:g} GiB, {'with' if checkpointing else 'without'} checkpointing"
        batch = _largest_in_small_card(record, names[0], checkpointing=checkpointing)
        record.row(
            f"{names[0]}, largest batch{note}",
            f"{batch}",
            goal=f">= {GOALS['batch']}" if checkpointing else "",
            met=batch >= GOALS["batch"] if checkpointing and not small else None,
            batch=batch,
        )
        if batch and not checkpointing:
            _attempt(partial(_training, record, names, batch, note=note))
    free_memory(device)


def _largest_in_small_card(record: Record, name: str, *, checkpointing: bool) -> int:
    device, pixels = record.args.device, _pixels(record)
    cuda = device == "cuda"
    gc.collect()
    free_memory(device)
    if cuda:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(SMALL_CARD_GIB * GIB / total, 1.0))
    try:
        objective = build(name, device, checkpointing=checkpointing)
        step = Training(objective, objective, batch_of(1, pixels, device), device)

        def fits(batch: int) -> bool:
            def twice() -> None:
                step.batch = batch_of(batch, pixels, device)
                step()
                step()

            enough = _attempt(twice)
            step.batch = ()
            step.optimizer.zero_grad()
            return enough

        return largest_batch(fits, **({"step": 1, "limit": 2} if record.args.small else {"limit": 192}))
    finally:
        if cuda:
            torch.cuda.set_per_process_memory_fraction(1.0)


class Worker:
    """A process that compiles one side, see `compiled.py`."""

    def __init__(self, record: Record, model: str, mode: str) -> None:
        args = record.args
        self.model, self.mode, self.ready, self.lines = model, mode, None, queue.SimpleQueue()
        options = {
            "model": model,
            "mode": mode,
            "batch": 2 if args.small else COMPILED_BATCH,
            "pixels": _pixels(record),
            "device": args.device,
            "backend": "eager" if args.small else "inductor",
            "seed": args.seed,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gpu.compiled", *(f"--{key}={value}" for key, value in options.items())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TORCHINDUCTOR_COMPILE_THREADS": str(max((os.cpu_count() or 4) // 4, 1))},
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self.process.stdout:
            words = line.split()
            if words[:1] == ["ready"]:
                self.ready = (float(words[1]), float(words[2]))
            elif self.ready:
                try:
                    self.lines.put(float(line))
                except ValueError:
                    print(line, end="", flush=True)

    @property
    def ended(self) -> bool:
        """Whether the process is no more."""
        return self.process.poll() is not None

    def milliseconds(self) -> float:
        """Let the process take one step."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.lines.get(timeout=10)


def compiled(record: Record) -> None:
    """Both sides under `torch.compile`, training and evaluation; all four compile at once, then take turns."""
    names = _names(record, "resnet101")
    gc.collect()
    free_memory(record.args.device)
    modes = ("training",) if record.args.small else ("training", "evaluation")
    workers = [Worker(record, name, mode) for mode in modes for name in names]
    try:
        while record.seconds_left > 8 and any(not (worker.ready or worker.ended) for worker in workers):
            time.sleep(0.2)
        for mode in modes:
            _compare_compiled(record, [worker for worker in workers if worker.mode == mode])
    finally:
        for worker in workers:
            worker.process.kill()


def _compare_compiled(record: Record, workers: list[Worker]) -> None:
    mode, batch = workers[0].mode, 2 if record.args.small else COMPILED_BATCH
    what = f"{workers[0].model} {mode}, compiled, batch {batch}"
    late = [worker for worker in workers if not worker.ready]
    for worker in workers:
        if worker.ready:
            seconds, gib = worker.ready
            name = f"{worker.model} {mode}, compiled"
            record.row(name, f"compiled in {seconds:.0f} s", hidden=True, seconds=seconds, gib=gib)
    if late:
        reasons = [f"{worker.model} {'failed' if worker.ended else 'was not compiled in time'}" for worker in late]
        record.row(what, "; ".join(reasons))
        return
    rounds = 1 if record.args.small else 15
    columns = [[worker.milliseconds() for worker in workers] for _ in range(rounds)]
    mine, other = (statistics.median(column) for column in zip(*columns, strict=True))
    goal = GOALS[mode]
    shown = f"{1e3 * batch / mine:.0f} images/s against {1e3 * batch / other:.0f}, {times(mine / other)}"
    memory = [worker.ready[1] for worker in workers]
    if all(memory):
        shown += f"; memory {memory[0]:.2f} GiB against {memory[1]:.2f} GiB, {times(ratio(*memory))}"
    record.row(
        what,
        f"{shown}; compiled in {workers[0].ready[0]:.0f} s",
        goal=f"<= {goal}",
        met=None if record.args.small else mine / other <= goal,
        milliseconds={"ours": mine, "backbone": other},
        gib={"ours": memory[0], "backbone": memory[1]},
    )


def main() -> int:
    args = arguments(__doc__)
    record = Record("speed", args)
    torch.manual_seed(args.seed)
    return record.run(
        [
            ("matrix product", matrix),
            ("ACmix", layer_rows.acmix),
            ("cross-attention", layer_rows.cross_attention),
            ("intervention", layer_rows.intervention),
            ("resnet101", partial(models, name="resnet101")),
            ("profile", profiles),
            ("24 GB", small_card),
            *([] if args.small else [("resnet50", partial(models, name="resnet50"))]),
            ("compiled", compiled),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
