"""Batched scoring: the same logits as one at a time, in order, with bounded memory, whatever a film is like."""

import contextlib
import itertools
import threading
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import causalcxr
from causalcxr.data import preprocess


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return causalcxr.create_model("causal_test_resnet").eval()


def films(number: int) -> list[Tensor]:
    return list(torch.rand(number, 1, 110, 96, generator=torch.Generator().manual_seed(0)))


def test_logits_are_those_of_one_film_at_a_time(model: nn.Module) -> None:
    given = films(7)
    predictions = list(causalcxr.predict(model, given, batch_size=3, workers=2))
    assert all(prediction.film is film for prediction, film in zip(predictions, given, strict=True))
    with torch.no_grad():
        expected = torch.cat([model(model.preprocess(film)) for film in given])
    torch.testing.assert_close(torch.stack([logits for _, logits, _ in predictions]), expected, rtol=1e-4, atol=1e-5)


def test_a_plain_model_of_timm_is_scored() -> None:
    model = timm.create_model("test_resnet", num_classes=2).eval()
    [(_, logits, error)] = causalcxr.predict(model, films(1))
    with torch.no_grad():
        expected = model(preprocess(films(1)[0], model.pretrained_cfg))[0]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert error is None


def test_films_that_cannot_be_scored_are_reported_in_their_place(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    good, other = films(2)
    given = [good, tmp_path / "absent.png", tmp_path / "bad.png", tmp_path / "bad.png", other]
    predictions = list(causalcxr.predict(model, given, batch_size=2))
    assert [prediction.film for prediction in predictions] == given
    assert [prediction.logits is None for prediction in predictions] == [False, True, True, True, False]
    assert [type(prediction.error) for prediction in predictions[1:4]] == [FileNotFoundError, ValueError, ValueError]
    alone = next(causalcxr.predict(model, [other])).logits
    torch.testing.assert_close(predictions[-1].logits, alone, rtol=1e-4, atol=1e-5)


def test_scores_that_are_not_finite_are_an_error() -> None:
    broken = causalcxr.create_model("causal_test_resnet")
    nn.init.constant_(broken.get_classifier().bias, torch.nan)
    [(_, logits, error)] = causalcxr.predict(broken, films(1))
    assert logits is None
    assert "not finite" in str(error)


def test_only_a_batch_for_each_worker_is_taken_in_advance(model: nn.Module) -> None:
    film, taken = films(1)[0], itertools.count()
    predictions = causalcxr.predict(model, (film for _ in taken), batch_size=4, workers=3)
    next(predictions)
    predictions.close()
    assert next(taken) == 4 + 3 * 4


def test_modules_keep_their_training_flags() -> None:
    model = causalcxr.create_model("causal_test_resnet").train()
    model.backbone.eval()
    for given in ([films(1)[0], films(1)[0]], [3]):  # scored and left early, and an error
        with contextlib.suppress(TypeError):
            next(causalcxr.predict(model, given, batch_size=1))
        assert (model.training, model.backbone.training) == (True, False)


def test_threads_share_the_cores(model: nn.Module) -> None:
    """Workers that each took all of them would wait for each other, for many times as long as the work takes."""
    before, seen = torch.get_num_threads(), []
    handle = model.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    torch.set_num_threads(6)
    list(causalcxr.predict(model, films(4), batch_size=1, workers=3))
    later: list[int] = []
    (thread := threading.Thread(target=lambda: later.append(torch.get_num_threads()))).start()
    thread.join()
    assert (seen, torch.get_num_threads(), later) == ([2] * 4, 6, [6])
    torch.set_num_threads(before)
    handle.remove()


def test_errors_say_what_would_work(model: nn.Module) -> None:
    with pytest.raises(TypeError, match="Linear has no pretrained_cfg"):
        causalcxr.predict(nn.Linear(1, 1), [])
    with pytest.raises(ValueError, match="batch_size must be a positive integer, but got 0"):
        causalcxr.predict(model, [], batch_size=0)
    with pytest.raises(TypeError, match="an image is a path"):
        next(causalcxr.predict(model, [3]))
