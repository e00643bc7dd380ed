"""Part "loop": examples/train.py on the device, in bfloat16 and float16, killed and resumed, and what it leaves."""

import functools
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

import causalcxr
from gpu.recording import Record, arguments

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1")  # with a process group of one


class Training:
    """A process that trains, with its output in a file."""

    def __init__(self, record: Record, name: str, *options: str, start: tuple[str, ...] = (str(TRAIN),)) -> None:
        small, cpu = record.args.small, record.args.device == "cpu"
        self.folder = record.args.output / "loop" / name
        self.output = self.folder.with_suffix(".log")
        self.output.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *start, f"--output={self.folder}", "--model=causal_test_resnet"]
        command += ["--image-size=64" if small else "--image-size=128", "--batch-size=32", "--workers=2"]
        command += [f"--data=synthetic:{96 if small else 512}", f"--seed={record.args.seed}", *options]
        env = os.environ | {"ACCELERATE_USE_CPU": str(cpu), "HF_HUB_OFFLINE": "1"}
        with self.output.open("a") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env)

    def log(self) -> list[dict]:
        """Return the records of the finished epochs."""
        path = self.folder / "log.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def finish(self) -> list[dict]:
        """Wait for the end and return the records, or raise with the last lines of the output."""
        if self.process.wait():
            said = self.output.read_text()[-1500:]
            raise RuntimeError(f"{self.folder.name} ended with {self.process.returncode}: {said}")
        return self.log()


def trainings(record: Record) -> None:
    """Train side by side in bfloat16, in float16 with an overflow, and in a process that is killed."""
    bfloat16 = Training(record, "bf16", "--epochs=2", "--mixed-precision=bf16", start=(*LAUNCH, str(TRAIN)))
    killed = Training(record, "killed", "--epochs=3")
    if record.args.device == "cuda":
        float16 = Training(record, "fp16", "--epochs=2", "--mixed-precision=fp16", start=(__file__,))
    while not killed.log() and killed.process.poll() is None:
        time.sleep(0.1)
    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait()
    resumed = Training(record, "killed", "--epochs=3", "--resume")
    show(record, "bfloat16, process group of one", bfloat16.finish())
    if record.args.device == "cuda":
        log = float16.finish()
        skipped = [epoch["skipped_updates"] for epoch in log]
        show(record, "float16 after an overflow", log, skipped_updates=skipped)
        record.row("overflow", f"updates skipped an epoch: {skipped}", met=skipped[0] > 0)
    log = resumed.finish()
    told = "resuming after epoch" in resumed.output.read_text()
    shown = f"{len(log)} epochs, {'told' if told else 'not told'} where it goes on"
    record.row("killed and resumed", shown, met=len(log) == 3 and told)


def show(record: Record, name: str, log: list[dict], **measured: object) -> None:
    """Add the losses and the AUROC of a training as a row."""
    losses = [round(epoch["losses"]["loss"], 4) for epoch in log]
    shown = f"loss by epoch {losses}, validation AUROC {log[-1]['val_auroc']:.3f}"
    record.row(name, shown, met=len(log) == 2, epochs=log, **measured)


def opens(record: Record) -> None:
    """Open what a training left on the CPU, and compare its logits with those of the device."""
    torch.backends.cudnn.allow_tf32 = False  # else the device rounds to 10 bits
    images = torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(record.args.seed))
    with torch.inference_mode():
        model = causalcxr.create_model(record.args.output / "loop" / "bf16").eval()
        expected = model(images)
        given = model.to(record.args.device)(images.to(record.args.device)).cpu()
    difference = (given - expected).abs().max().item()
    record.row("logits on the device and on the CPU", f"{difference:.1e} apart", met=difference < 1e-3)


def overflow() -> None:
    """Run train.py with a loss scale that overflows at the first updates."""
    scaler = torch.amp.GradScaler
    scaler.__init__ = functools.partialmethod(scaler.__init__, init_scale=2.0**60, backoff_factor=2.0**-22)
    runpy.run_path(str(TRAIN), run_name="__main__")


if __name__ == "__main__":
    if "--data" in " ".join(sys.argv):
        overflow()
    else:
        sys.exit(Record("loop", arguments(__doc__)).run([trainings, opens]))
