"""A process that trains one run after another, for `study.py`."""

import json
import os
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .films import keep_a_few, parts, read_tables, resize, training_films
from .pointing import marked_findings
from .training import Data, train


def load(plan: dict[str, Any]) -> Data:
    """Put the films that `study.py` decoded on the device."""
    tables = [read_tables(Path(source)) for source in plan["sources"]]
    pixels = [np.load(file, mmap_mode="r") for file in plan["pixels"]]
    rows = parts(tables[0])
    if few := plan["few"]:
        rows = keep_a_few(rows, few)
        for number in range(1, len(tables)):
            pixels[number], tables[number] = (
                pixels[number][:few],
                tables[number].select(range(min(few, len(tables[number])))),
            )
    first, device = tables[0], plan["device"]
    val, test = (torch.from_numpy(pixels[0][rows[part]]).to(device) for part in ("val", "test"))
    test_tables = first.select(rows["test"])
    return Data(
        training=training_films(list(zip(pixels, tables, strict=True)), rows["train"], plan["canvas"], device),
        val=val,
        val_targets=first.targets[rows["val"]],
        test=test,
        boxes=marked_findings(test_tables.names, test_tables.boxes),
        resize=resize,
    )


def replace(path: Path, content: str) -> None:
    """Write a text file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(content)
    os.replace(partial, path)


def serve(connection: Connection, plan: dict[str, Any]) -> None:
    """Load the films, then run jobs until told to stop; end after the first failure, which may have hurt the device."""
    name = ""
    try:
        torch.set_num_threads(plan["threads"])
        torch.set_float32_matmul_precision("high")
        data, work = load(plan), Path(plan["work"])
        connection.send(("ready", time.time()))
        while (job := connection.recv()) is not None:
            name = job["name"]
            record, scores = train(
                job,
                data,
                device=plan["device"],
                weights=plan["weights"],
                deadline=plan["deadline"],
                report=lambda progress: connection.send(("progress", progress)),
                weights_to=work / f"{name}.safetensors",
            )
            partial = work / f"{name}.partial.npz"  # NumPy adds the suffix to other names
            np.savez(partial, **scores)
            os.replace(partial, work / f"{name}.npz")
            replace(work / f"{name}.json", json.dumps(record))
            connection.send(("done", name))
    except (EOFError, KeyboardInterrupt):
        pass
    except Exception:  # whatever it was, the other workers go on
        connection.send(("failed", name, traceback.format_exc()))
