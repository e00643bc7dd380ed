"""Batched scoring: the same logits as one image at a time, in order, with bounded memory, for any input."""

import io
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

import causalcxr
from causalcxr import inference
from causalcxr.data import preprocess


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return causalcxr.create_model("causal_test_resnet").eval()


def films(number):
    return list(torch.rand(number, 1, 110, 96, generator=torch.Generator().manual_seed(0)))


def stacked(predictions):
    return torch.stack([logits for _, logits, _ in predictions])


def predict_as_on(kind, model, films):
    """Score in batches of 2 with 3 workers, with the schedule of a device of this kind."""
    return inference._predict(model, films, 2, 3, {"device_type": kind, "dtype": torch.float16, "enabled": False})


@pytest.mark.parametrize(("name", "in_chans"), [("causal_test_resnet", 3), ("test_resnet", 3), ("test_resnet", 1)])
def test_logits_are_those_of_one_film_at_a_time(name, in_chans):
    model, given = timm.create_model(name, num_classes=2, in_chans=in_chans).eval(), films(7)
    cfg = model.pretrained_cfg | {"input_size": (in_chans, *model.pretrained_cfg["input_size"][1:])}
    predictions = list(causalcxr.predict(model, given, batch_size=3, workers=2))
    assert all(prediction.film is film for prediction, film in zip(predictions, given, strict=True))
    with torch.no_grad():
        expected = torch.cat([model(preprocess(film, cfg)) for film in given])
    torch.testing.assert_close(stacked(predictions), expected, rtol=1e-4, atol=1e-5)


def test_films_that_cannot_be_scored_are_reported_in_their_place(model, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    good, other = films(2)
    given = [good, tmp_path / "absent.png", tmp_path / "bad.png", np.zeros((8, 8), np.int16), 3, other]
    predictions = list(causalcxr.predict(model, given, batch_size=2))
    assert [prediction.film for prediction in predictions] == given
    assert [prediction.logits is None for prediction in predictions] == [False, True, True, True, True, False]
    assert [type(error) for _, _, error in predictions[1:5]] == [FileNotFoundError, ValueError, TypeError, TypeError]
    alone = next(causalcxr.predict(model, [other])).logits
    torch.testing.assert_close(predictions[-1].logits, alone, rtol=1e-4, atol=1e-5)


def test_other_errors_stop_the_call(model, monkeypatch):
    def out_of_memory(*_):
        raise MemoryError

    monkeypatch.setattr(inference, "read_resized", out_of_memory)
    with pytest.raises(MemoryError):
        list(causalcxr.predict(model, films(2)))


def test_scores_that_are_not_finite_are_an_error():
    broken = causalcxr.create_model("causal_test_resnet")
    nn.init.constant_(broken.get_classifier().bias, torch.nan)
    [(_, logits, error)] = causalcxr.predict(broken, films(1))
    assert logits is None
    assert str(error) == "the film: the model's logits are not finite"


def test_few_batches_are_taken_in_advance(model):
    film, taken = films(1)[0], itertools.count()
    predictions = causalcxr.predict(model, (film for _ in taken), batch_size=4, workers=3)
    next(predictions)
    predictions.close()
    assert next(taken) == 4 + 3 * 4


def test_a_batch_is_read_by_all_workers(model, monkeypatch):
    together, read = threading.Barrier(4, timeout=20), inference.read_resized
    monkeypatch.setattr(inference, "read_resized", lambda *args: (together.wait(), read(*args))[1])
    assert all(error is None for _, _, error in causalcxr.predict(model, films(4), batch_size=4, workers=4))


def test_a_gpu_is_used_by_the_calling_thread_alone(model):
    """cuDNN plans convolutions anew in each thread, which made `predict` 30 times slower than reading images."""
    seen = []
    handle = model.register_forward_hook(lambda *_: seen.append(threading.get_ident()))
    found = stacked(predict_as_on("cuda", model, films(7)))
    handle.remove()
    assert seen == [threading.get_ident()] * 4
    torch.testing.assert_close(found, stacked(causalcxr.predict(model, films(7))))


def test_the_thread_that_uses_a_gpu_does_not_stack_images(model, monkeypatch):
    """Its PyTorch threads waited for the cores that read, for longer than a GPU needs for a batch."""
    seen, stack = [], torch.stack

    def recorded(tensors, *args, **kwargs):
        if tensors[0].shape == (1, 96, 96):  # the model stacks others
            seen.append(threading.get_ident())
        return stack(tensors, *args, **kwargs)

    monkeypatch.setattr(torch, "stack", recorded)
    list(predict_as_on("cuda", model, films(7)))
    assert len(seen) == 4
    assert threading.get_ident() not in seen


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("before", [0, 4, 7])
def test_films_before_an_error_of_their_generator_are_scored(model, kind, before):
    def given():
        yield from films(before)
        raise OSError("the drive is gone")

    seen = []
    with pytest.raises(OSError, match="the drive is gone"):
        seen.extend(logits for _, logits, _ in predict_as_on(kind, model, given()))
    assert len(seen) == before


def test_a_model_in_training_stays_so():
    """Overlapping calls change neither flags nor batch statistics, and do not affect each other's scores."""
    model = causalcxr.create_model("causal_test_resnet").train()
    model.backbone.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    first, other = (causalcxr.predict(model, films(4), batch_size=1, workers=1) for _ in range(2))
    one, two = next(first), next(other)
    assert (model.training, model.backbone.training) == (True, False)
    found = [stacked([one, *first]), stacked([two, *other])]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    expected = stacked(causalcxr.predict(model.eval(), films(4), batch_size=1, workers=1))
    torch.testing.assert_close(found, [expected, expected])


def test_autocast_is_heeded(model):
    with torch.autocast("cpu", torch.bfloat16):
        predictions = causalcxr.predict(model, films(1))
    exact = next(causalcxr.predict(model, films(1))).logits
    assert 1e-5 < (next(predictions).logits - exact).abs().max() < 0.1


def test_threads_share_the_cores(model):
    """Workers that each used all cores would wait for each other, many times longer than the work takes."""

    def elsewhere(work):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(work).result()

    before, seen = torch.get_num_threads(), []
    handle = model.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    torch.set_num_threads(6)
    running = causalcxr.predict(model, films(4), batch_size=1, workers=3)
    next(running)
    elsewhere(lambda: list(causalcxr.predict(model, films(2), batch_size=1, workers=3)))  # while another call runs
    list(running)
    assert (set(seen), torch.get_num_threads(), elsewhere(torch.get_num_threads)) == ({2}, 6, 6)
    torch.set_num_threads(before)
    handle.remove()


def test_errors_say_what_would_work(model):
    with pytest.raises(TypeError, match="Linear has no pretrained_cfg"):
        causalcxr.predict(nn.Linear(1, 1), [])
    for wrong in ({"batch_size": 0}, {"workers": 0}):
        with pytest.raises(ValueError, match="positive integer"):
            causalcxr.predict(model, [], **wrong)
    arrays = torch.rand(80, 80), np.ones((80, 80, 3)), torch.tensor(0.5)
    for film in ("film.png", Path("film.png"), io.BytesIO(), 3, *arrays):
        with pytest.raises(TypeError, match=r"pass \[film\]"):
            causalcxr.predict(model, film)
    assert [film for film, _, _ in causalcxr.predict(model, np.array(["a.png"]))] == ["a.png"]
    assert len(list(causalcxr.predict(model, torch.rand(2, 80, 80)))) == 2
