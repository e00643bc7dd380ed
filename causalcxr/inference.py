"""Batched inference on many films, read by several threads."""

import copy
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from causalcxr._checks import check_count
from causalcxr.data.image import ImageLike
from causalcxr.data.transforms import normalise, read_resized

__all__ = ["Prediction", "predict"]

FILM_ERRORS = (OSError, ValueError, TypeError, ImportError)


class Prediction(NamedTuple):
    """Prediction for one film.

    Attributes:
        film: The film as passed to `predict`.
        logits: (K,), float32 on the CPU, or None if the film cannot be scored.
        error: The reason, or None.
    """

    film: ImageLike
    logits: Tensor | None
    error: Exception | None


def predict(
    model: nn.Module, films: Iterable[ImageLike], *, batch_size: int = 8, workers: int = 2
) -> Iterator[Prediction]:
    """Score films in batches on the model's device, and yield predictions in input order as they are ready.

    Films are read, resized and normalised as in `model.preprocess`. If a film cannot be read, its prediction contains
    the error, and the others are still scored. Memory use does not grow with the number of films.

    The mode of the model does not change. If it is in training mode, a copy in evaluation mode scores the films and
    shares its weights. An active `torch.autocast` applies.

    Args:
        model: A model from `causalcxr.create_model` or `timm.create_model`, or any module with `pretrained_cfg` that
            returns logits (B, K).
        films: Inputs of `causalcxr.data.read_image`, such as paths. Generators are consumed lazily. If one raises an
            error, the films before it are yielded first.
        batch_size: Number of films per batch.
        workers: Number of threads that read films and, on a CPU, score batches. They share the
            `torch.get_num_threads()` cores. On a CPU, one worker per core is fastest if memory allows. On a GPU, the
            iterating thread scores the batches.

    Yields:
        A `Prediction(film, logits, error)` for each film.

    Raises:
        TypeError: If the model has no `pretrained_cfg`, or `films` is a single film.
        ValueError: If `batch_size` or `workers` is not a positive integer.

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
            f"{type(model).__name__} has no pretrained_cfg to define the image scaling; build the model with "
            "causalcxr.create_model or timm.create_model (for a wrapped model, pass its .module)"
        )
    shape = getattr(films, "shape", (1,))
    single = isinstance(films, (str, os.PathLike)) or hasattr(films, "read") or len(shape) in (0, 2)
    if single or (len(shape) == 3 and shape[-1] in (1, 3, 4)) or not isinstance(films, Iterable):
        raise TypeError(f"films must be an iterable of films, but got {type(films).__name__}; for one, pass [film]")
    kind = next(model.parameters()).device.type
    precision = {"dtype": torch.get_autocast_dtype(kind), "enabled": torch.is_autocast_enabled(kind)}
    return _predict(model, films, batch_size, workers, {"device_type": kind, **precision})


def _predict(
    model: Any, films: Iterable[ImageLike], batch_size: int, workers: int, precision: dict[str, Any]
) -> Iterator[Prediction]:
    if any(module.training for module in model.modules()):
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        model = copy.deepcopy(model, shared).eval()
    films, cfg = iter(films), dict(model.pretrained_cfg)
    channels, *size = cfg["input_size"]
    cfg["input_size"] = (getattr(model, "in_chans", channels), *size)  # timm keeps the channels of the weights there
    on_cpu = precision["device_type"] == "cpu"
    ahead = workers if on_cpu else 1 + math.ceil(workers / batch_size)  # batches queued behind the next one
    waiting: deque[Callable[[], list[Prediction]]] = deque()
    with _divided(workers) as threads:
        # Each worker has its own cores, so that workers do not wait for each other's threads.
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,))
        try:
            failed: Exception | None = None
            while failed is None:
                batch: list[ImageLike] = []
                try:
                    batch.extend(islice(films, batch_size))
                except Exception as error:  # from a generator; still score the films before it
                    failed = error
                if not batch:
                    break
                images = [pool.submit(read_resized, film, cfg) for film in batch]  # starts before the next batch
                # A worker stacks them. This thread's PyTorch threads would wait for the cores that read.
                stack = pool.submit(_stack, images)
                score = partial(_score, model, cfg, batch, stack, precision)
                # cuDNN plans its convolutions again in every thread, for seconds. So only this thread uses a GPU.
                waiting.append(pool.submit(score).result if on_cpu else score)
                if len(waiting) > ahead:
                    yield from waiting.popleft()()
            while waiting:
                yield from waiting.popleft()()
            if failed is not None:
                raise failed
        finally:
            pool.shutdown(cancel_futures=True)


_running: list[int] = []  # number of threads when each active call began; only the first entry counts
_change = Lock()


@contextmanager
def _divided(workers: int) -> Iterator[int]:
    """Yield the number of PyTorch threads per worker, and restore the setting when the last call ends."""
    with _change:
        _running.append(torch.get_num_threads())
    try:
        yield max(1, _running[0] // workers)
    finally:
        with _change:
            threads = _running.pop()
            if not _running:
                torch.set_num_threads(threads)


@torch.inference_mode()
def _score(
    model: Any,
    cfg: dict[str, Any],
    films: list[ImageLike],
    stack: Future[tuple[Tensor | None, list[Any]]],
    precision: dict[str, Any],
) -> list[Prediction]:
    images, errors = stack.result()
    logits: Iterator[Tensor] = iter(())
    if images is not None:
        weight = next(model.parameters())
        with torch.autocast(**precision):
            grey = normalise(images.to(weight.device), cfg)
            # Convolutions follow the memory format of the images. Channels last is faster on CPUs and GPUs.
            logits = iter(model(grey.to(weight, memory_format=torch.channels_last)).float().cpu())
    predictions = []
    for film, error in zip(films, errors, strict=True):
        if error is not None:
            predictions.append(Prediction(film, None, error))
        elif (scores := next(logits)).isfinite().all():
            predictions.append(Prediction(film, scores, None))
        else:
            name = film if isinstance(film, (str, os.PathLike)) else "the film"
            predictions.append(Prediction(film, None, ValueError(f"{name}: the model's logits are not finite")))
    return predictions


def _stack(images: list[Future[Tensor]]) -> tuple[Tensor | None, list[Any]]:
    """Return the images that were read as one tensor, or None, and the error or None of each film."""
    errors = [image.exception() for image in images]
    if unexpected := [error for error in errors if error and not isinstance(error, FILM_ERRORS)]:
        raise unexpected[0]
    good = [image.result() for image, error in zip(images, errors, strict=True) if error is None]
    return torch.stack(good) if good else None, errors
