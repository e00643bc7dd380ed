"""Scores of many films: each of some threads reads a batch and scores it."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from causalcxr._checks import check_count
from causalcxr._modes import eval_mode
from causalcxr.data.image import ImageLike
from causalcxr.data.transforms import normalise, read_resized

__all__ = ["Prediction", "predict"]


class Prediction(NamedTuple):
    """What a model says of one film.

    Attributes:
        film: The film as it was given.
        logits: (K,), float32 on the CPU, or None where the film cannot be scored.
        error: Why not, or None.
    """

    film: ImageLike
    logits: Tensor | None
    error: Exception | None


def predict(
    model: nn.Module, films: Iterable[ImageLike], *, batch_size: int = 8, workers: int = 2
) -> Iterator[Prediction]:
    """Score films in batches, on the model's device, and yield each as it is done, in the order given.

    Films are read, resized and normalised as `model.preprocess` does. A film that cannot be read is reported in its
    place, and the others are scored all the same. Memory holds a batch for each worker, however many films there are.

    The model is in `eval` mode until the last prediction or until the iterator is closed, as leaving a loop does. Then
    each module has the training flag it had before.

    Args:
        model: A model from `causalcxr.create_model` or `timm.create_model`: anything with `pretrained_cfg` that gives
            logits (B, K).
        films: What `causalcxr.data.read_image` takes, such as paths. A generator is read as far as it is needed.
        batch_size: Number of films that the model takes at once.
        workers: Number of threads, each of which reads a batch and scores it. They share the cores that
            `torch.get_num_threads()` says. On a CPU, one a core is the fastest, if memory allows.

    Yields:
        A `Prediction(film, logits, error)` for each film.

    Raises:
        TypeError: The model has no `pretrained_cfg`, or a film is of none of the types that `read_image` takes.
        ValueError: `batch_size` or `workers` is not a positive integer.

    Example:
        >>> import causalcxr
        >>> model = causalcxr.create_model("causal_test_resnet")
        >>> for film, logits, error in predict(model, [torch.rand(1, 96, 96), "absent.png"]):
        ...     print(error or logits.shape)
        torch.Size([14])
        [Errno 2] No such file or directory: 'absent.png'
    """
    check_count("batch_size", batch_size)
    check_count("workers", workers)
    if not getattr(model, "pretrained_cfg", None):
        raise TypeError(
            f"{type(model).__name__} has no pretrained_cfg, which says how films are scaled; build the model with "
            "causalcxr.create_model or timm.create_model (of a wrapped one, give its .module)"
        )
    return _predict(model, films, batch_size, workers)


def _predict(model: nn.Module, films: Iterable[ImageLike], batch_size: int, workers: int) -> Iterator[Prediction]:
    films, threads = iter(films), torch.get_num_threads()
    batches = iter(lambda: list(islice(films, batch_size)), [])
    # An accelerator, whose memory is short, takes one batch at a time. The cores are divided among the workers, since
    # one that waits for threads of another wastes its time.
    turn = nullcontext() if next(model.parameters()).device.type == "cpu" else Lock()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(max(1, threads // workers),))
    with eval_mode(model):
        try:
            waiting = deque(pool.submit(_score, model, batch, turn) for batch in islice(batches, workers))
            while waiting:
                predictions = waiting.popleft().result()
                waiting.extend(pool.submit(_score, model, batch, turn) for batch in islice(batches, 1))
                yield from predictions
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # for threads that others start; this one's number is as it was


@torch.inference_mode()
def _score(model: Any, films: list[ImageLike], turn: AbstractContextManager[Any]) -> list[Prediction]:
    read = [_read(film, model.pretrained_cfg) for film in films]
    good = [image for image in read if isinstance(image, Tensor)]
    logits: Iterator[Tensor] = iter(())
    if good:
        weight, images = next(model.parameters()), torch.stack(good)
        with turn:
            images = normalise(images.to(weight.device), model.pretrained_cfg)
            # Convolutions follow the memory format of the images; this one is the faster, on the CPU and on a GPU.
            logits = iter(model(images.to(weight, memory_format=torch.channels_last)).float().cpu())
    predictions = []
    for film, image in zip(films, read, strict=True):
        if isinstance(image, Exception):
            predictions.append(Prediction(film, None, image))
        elif (scores := next(logits)).isfinite().all():
            predictions.append(Prediction(film, scores, None))
        else:
            predictions.append(Prediction(film, None, ValueError(f"{film}: the scores of the model are not finite")))
    return predictions


def _read(film: ImageLike, cfg: Any) -> Tensor | Exception:
    """Return the grey image (1, H, W) of a film, or what is wrong with it."""
    try:
        return read_resized(film, cfg)
    except (OSError, ValueError, ImportError) as error:
        return error
