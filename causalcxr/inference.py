"""Scores of many films: files are read ahead by threads while the model works on a batch."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
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
    model: nn.Module, films: Iterable[ImageLike], *, batch_size: int = 16, workers: int = 2
) -> Iterator[Prediction]:
    """Score films in batches, on the model's device, and yield each as it is done, in the order given.

    Films are read, resized and normalised as `model.preprocess` does. A film that cannot be read is reported in its
    place, and the others are scored all the same. Memory holds two batches, however many films there are.

    The model is in `eval` mode while it works. Between two predictions each module has the training flag it had before.

    Args:
        model: A model from `causalcxr.create_model` or `timm.create_model`: anything with `pretrained_cfg` that gives
            logits (B, K).
        films: What `causalcxr.data.read_image` takes, such as paths. A generator is read as far as it is needed.
        batch_size: Number of films that the model takes at once.
        workers: Number of threads that read ahead.

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
    read = _read_ahead(films, model.pretrained_cfg, batch_size, workers)
    while batch := list(islice(read, batch_size)):
        images = [image for _, image in batch if isinstance(image, Tensor)]
        logits: Iterator[Tensor] = iter(_logits(model, torch.stack(images)) if images else ())
        for film, image in batch:
            if isinstance(image, Exception):
                yield Prediction(film, None, image)
            elif bool((scores := next(logits)).isfinite().all()):
                yield Prediction(film, scores, None)
            else:
                yield Prediction(film, None, ValueError(f"{film}: the scores of the model are not finite"))


def _read_ahead(
    films: Iterable[ImageLike], cfg: Any, ahead: int, workers: int
) -> Iterator[tuple[ImageLike, Tensor | Exception]]:
    """Yield each film with its grey image (1, H, W), or with what is wrong with it."""

    def read(film: ImageLike) -> Tensor | Exception:
        try:
            return read_resized(film, cfg)
        except (OSError, ValueError, ImportError) as error:
            return error

    waiting: deque[tuple[ImageLike, Future[Tensor | Exception]]] = deque()
    pool = ThreadPoolExecutor(workers)  # reading a file leaves the interpreter's lock to others most of the time
    try:
        for film in films:
            waiting.append((film, pool.submit(read, film)))
            if len(waiting) > ahead:
                film, image = waiting.popleft()
                yield film, image.result()
        while waiting:
            film, image = waiting.popleft()
            yield film, image.result()
    finally:
        pool.shutdown(cancel_futures=True)


@torch.inference_mode()
def _logits(model: Any, images: Tensor) -> Tensor:
    weight = next(model.parameters())
    images = normalise(images.to(weight.device), model.pretrained_cfg)
    # Convolutions follow the memory format of the images; this one is the faster, on the CPU and on a GPU.
    images = images.to(weight, memory_format=torch.channels_last)
    with eval_mode(model):
        return model(images).float().cpu()
