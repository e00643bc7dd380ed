"""The benchmarks: yardsticks that compute what the library computes, arithmetic of the harness, runs on small sizes."""

import copy
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import compare
import growth
import measuring
import modes
import throughput
import yardsticks
from causalcxr import create_model
from causalcxr.layers import ACmix, BackdoorIntervention, DisentangledCrossAttention
from causalcxr.losses import backdoor_loss
from causalcxr.metrics import bootstrap_auroc
from reference.comparison import EXACT, normal, randomised

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results" / "benchmarks"


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Threads cost more than they save on sizes such as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("num_heads", "window"), [(2, 7), (1, 11)])
def test_unfolded_acmix_agrees(num_heads: int, window: int) -> None:
    layer = randomised(ACmix(3, 4, num_heads=num_heads, attn_kernel_size=window))
    unfolded = copy.deepcopy(layer)
    unfolded.__class__ = yardsticks.UnfoldACmix
    for size in ((8, 9), (21, 17), (32, 32)):
        torch.testing.assert_close(layer(normal(2, 3, *size)), unfolded(normal(2, 3, *size)), **EXACT)


@pytest.mark.parametrize("complement", ["normalized", "paper"])
def test_materialised_attention_agrees(complement: str) -> None:
    layer = randomised(DisentangledCrossAttention(6, num_heads=3, complement=complement))
    literal, one = copy.deepcopy(layer), copy.deepcopy(layer)
    literal.__class__, one.__class__ = yardsticks.MaterialisedCrossAttention, yardsticks.OneBranchCrossAttention
    inputs = normal(2, 4, 6), normal(2, 9, 6, seed=2)
    torch.testing.assert_close(layer(*inputs), literal(*inputs), **EXACT)
    torch.testing.assert_close(layer(*inputs).causal, one(*inputs), **EXACT)


def test_loops_over_confounders_agree() -> None:
    layer = randomised(BackdoorIntervention(3, 5))
    causal, bank = normal(4, 3, 5).requires_grad_(), normal(6, 3, 5, seed=2)
    targets = (normal(4, 3, seed=3) > 0).double()
    phi = layer.classifier
    inputs = (causal, phi.weight, phi.bias)
    ours = backdoor_loss(layer(causal, causal, bank), targets)
    expected = ours.detach(), *torch.autograd.grad(ours, inputs)
    data = (yardsticks.written_out(phi), causal, bank, targets)
    torch.testing.assert_close(yardsticks.loop_over_pairs(*data, inputs), expected, **EXACT)
    torch.testing.assert_close(yardsticks.loop_over_confounders(*data), ours, **EXACT)


def test_published_design_agrees_with_the_library_at_the_same_width() -> None:
    theirs = yardsticks.published_design("causal_test_resnet", dim=32).eval()
    ours = create_model("causal_test_resnet", num_classes=15, combine="cat", dim=32).eval()
    ours.load_state_dict(theirs.state_dict())
    assert isinstance(theirs.head.decoder.layers[0].attn, yardsticks.MaterialisedCrossAttention)
    assert isinstance(theirs.head.feature_learning.channel_attn[2], yardsticks.UnfoldACmix)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.forward_causal(images), theirs.forward_causal(images), rtol=1e-4, atol=1e-5)


def test_bootstrap_in_a_loop_agrees() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 2)) < 0.4).astype(float)
    scores, groups = (rng.normal(size=(60, 2)) + targets).round(1), rng.integers(20, size=60)
    loop = np.array(list(yardsticks.loop_over_resamples(scores, targets, groups, 7, seed=3)))
    ours = bootstrap_auroc(scores, targets, groups, n_resamples=7, seed=3)
    np.testing.assert_allclose(loop, ours.resamples, rtol=1e-12)


def test_rounds_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    ticks = itertools.count()
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: float(next(ticks)))
    times = measuring.in_turns({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, rounds=3, warmup=1)
    assert "".join(ran) == "ab" + "ba" + "ab" + "ba"  # the first two are for warming up
    assert times == {"a": [1.0] * 3, "b": [1.0] * 3}


def test_ratio_is_that_of_each_round() -> None:
    times = {"a": [2.0, 9.0, 40.0], "b": [1.0, 3.0, 10.0]}
    assert measuring.ratio(times, "a", "b") == (3.0, 2.0, 4.0)
    assert measuring.ratio({"a": [6.0], "b": [3.0]}, "a", "b") == (2.0, 2.0, 2.0)


def test_peak_of_tensors_is_what_is_held_at_once() -> None:
    kept = []

    def run() -> None:
        kept.clear()
        kept.append(torch.zeros(1024, 1024))
        torch.zeros(2048, 1024)  # freed at once, twice
        torch.zeros(2048, 1024)

    assert measuring.peak_memory(run)["tensors"] == pytest.approx(12 * 2**20, rel=0.01)


def test_memory_held_by_a_model_counts_its_optimizer() -> None:
    model = torch.nn.Linear(10, 10)
    optimizer = torch.optim.AdamW(model.parameters())
    assert measuring.held_by(model, optimizer) == 110 * 4
    model(torch.ones(1, 10)).sum().backward()
    optimizer.step()
    assert measuring.held_by(model, optimizer) == 110 * 4 * 3 + 2 * 4  # two moments, and a step for each tensor


def test_row_is_kept_and_not_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    release = tmp_path / "images"
    release.mkdir()
    Image.effect_noise((1024, 1024), 30).save(release / "00000001_000.png")
    options = ["--rows", "reading", f"--release={release}", f"--json={tmp_path / 'results.json'}"]
    compare.main(options)
    printed = capsys.readouterr().out
    assert "| reading and augmenting 1 NIH images" in printed
    written = (tmp_path / "results.json").read_text()
    (row,) = json.loads(written)["results"].values()
    assert row["rounds"] == 8
    assert str(tmp_path) not in written
    compare.main(options)
    captured = capsys.readouterr()
    assert captured.out == printed
    assert "measured before" in captured.err
    assert (tmp_path / "results.json").read_text() == written


def test_reading_needs_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare.main(["--rows", "reading"])
    assert "left out, it needs --release" in capsys.readouterr().err
    with pytest.raises(ValueError, match="has no PNG files; give a folder of images of the NIH release"):
        compare.main(["--rows", "reading", f"--release={tmp_path}"])


def test_growth_is_measured_tabulated_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def small(*_: str) -> dict[str, object]:
        steps = {"model": lambda n: growth.model_step("test_resnet", "cpu", size=64, batch=n)}
        steps["head"] = lambda n: growth.model_step("causal_test_resnet", "cpu", size=64, batch=n)
        return {"batch": ((1, 4), lambda n: {name: build(n) for name, build in steps.items()})}

    monkeypatch.setattr(growth, "axes", small)
    target, figure = tmp_path / "growth.json", tmp_path / "growth.png"
    growth.main(["--axes", "batch", f"--json={target}", f"--plot={figure}"])
    assert capsys.readouterr().out.count("| batch | ") == 4
    points = [point for result in json.loads(target.read_text())["results"].values() for point in result["points"]]
    for (_, name), (one, four) in growth.curves(points).items():
        assert 2 < four["peak_bytes"] / one["peak_bytes"] <= 4, name
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_power_of_growth() -> None:
    before, after = ({"axis": "resolution", "value": side, "seconds": 3.0 * side**2} for side in (128, 512))
    assert growth.exponent(before, after, "seconds") == pytest.approx(1)
    before, after = ({"axis": "bank", "value": size, "seconds": size**0.5} for size in (100, 400))
    assert growth.exponent(before, after, "seconds") == pytest.approx(0.5)


def test_steps_of_the_head_grow_with_what_is_changed() -> None:
    base, wide = (growth.head_step("cpu", width=width, batch=1, bank=8, labels=2) for width in (32, 64))
    base()
    wide()
    assert measuring.peak_memory(wide)["tensors"] > measuring.peak_memory(base)["tensors"]


def test_modes_agree_and_checkpointing_saves_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "modes.json"
    small = ["--model=causal_test_resnet", "--size=128", "--batch=2", "--rounds=1", f"--json={target}"]
    modes.main([*small, "--modes", "contiguous", "bfloat16", "checkpointed"])
    rows = json.loads(target.read_text())["results"]
    assert rows["contiguous"]["gradients_error"] < 1e-4
    assert rows["checkpointed"]["gradients_error"] < 1e-4
    assert rows["checkpointed"]["memory_ratio"] < 1
    assert 1e-5 < rows["bfloat16"]["gradients_error"] < 0.5
    assert "| checkpointed |" in capsys.readouterr().out


def test_throughput_is_counted_from_the_step(tmp_path: Path) -> None:
    target = tmp_path / "throughput.json"
    small = ["--device=cpu", "--size=64", "--batch=2", "--matrix=64", "--no-compile", f"--json={target}"]
    throughput.main([*small, "--models", "causal_test_resnet", "test_resnet"])
    rows = json.loads(target.read_text())["results"]
    for row in rows.values():
        images = row["batch"] / row["step_seconds"]
        assert row["images_per_second"] == pytest.approx(images, rel=0.01, abs=0.01)
        assert row["hours_per_epoch"] == pytest.approx(86_524 / images / 3600, rel=0.01, abs=1e-3)
        rate = row["operations_per_image"] * images
        assert row["share_of_matrix_rate"] == pytest.approx(rate / row["matrix_rate"], rel=0.01, abs=1e-4)
    causal, plain = (rows[f"{name}, eager"]["operations_per_image"] for name in ("causal_test_resnet", "test_resnet"))
    assert causal > plain


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_throughput_asks_for_an_accelerator() -> None:
    with pytest.raises(SystemExit, match="there is no device 'cuda' here"):
        throughput.main([])


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_tables_of_the_docs_are_those_of_the_results(path: Path) -> None:
    results = json.loads(path.read_text())["results"]
    module = {"compare": compare, "growth": growth, "modes": modes}[path.stem.split("_")[0]]
    if module is growth:
        results = [point for result in results.values() for point in result["points"]]
    assert module.table(results) in (ROOT / "docs" / "performance.md").read_text()
