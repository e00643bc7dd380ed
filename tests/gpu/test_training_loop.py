"""examples/train.py on a GPU: in a process group, after an overflow, and after a kill; tests/examples has the CPU."""

import json
import subprocess
import sys
import time

import pytest
import torch
from accelerate.state import AcceleratorState

import causalcxr
import train
from reference.comparison import DEVICES, normal, relative_error

pytestmark = [pytest.mark.parametrize("device", DEVICES[1:]), pytest.mark.usefixtures("full_precision")]
GROUP_OF_ONE = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1")


def options(output, *others):
    small = ["--model=causal_test_resnet", "--data=synthetic:96", "--image-size=64", "--batch-size=32", "--workers=1"]
    return [*small, f"--output={output}", *others]


def log(output):
    path = output / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_bfloat16_in_a_process_group_leaves_a_model(tmp_path, device):
    command = [sys.executable, *GROUP_OF_ONE, train.__file__]
    subprocess.run([*command, *options(tmp_path, "--epochs=2", "--mixed-precision=bf16")], check=True)
    assert len(log(tmp_path)) == 2
    model, images = causalcxr.create_model(tmp_path).eval(), normal(4, 3, 64, 64).float()
    expected = model(images).double()
    assert relative_error(model.to(device)(images.to(device)), expected) < 1e-3


def test_float16_skips_updates_that_overflow(tmp_path, monkeypatch, device):
    scalers, initialise = [], torch.amp.GradScaler.__init__

    def start(scaler, *args, **kwargs):
        initialise(scaler, *args, **kwargs | {"init_scale": 2.0**60, "backoff_factor": 2.0**-22})
        scalers.append(scaler)

    monkeypatch.setattr(torch.amp.GradScaler, "__init__", start)
    AcceleratorState._reset_state(reset_partial_state=True)
    train.main(options(tmp_path, "--epochs=2", "--mixed-precision=fp16"))
    assert scalers[0].get_scale() < 2.0**40  # an overflow lowers it, and skips the update
    assert len(log(tmp_path)) == 2  # an update that is not skipped makes the loss NaN, which stops the run


def test_a_killed_run_goes_on(tmp_path, device):
    command = [sys.executable, train.__file__, *options(tmp_path, "--epochs=3")]
    process = subprocess.Popen(command)
    while not log(tmp_path) and process.poll() is None:
        time.sleep(0.1)
    process.kill()
    process.wait()
    resumed = subprocess.run([*command, "--resume"], check=True, stdout=subprocess.PIPE, text=True)
    assert "resuming after epoch" in resumed.stdout
    assert [epoch["epoch"] for epoch in log(tmp_path)] == [1, 2, 3]
