"""`config.json` of a saved model: what it may say.

It decides what is built and where weights are taken from, and it may come from anybody. So whatever is not expected is
refused before anything is built.
"""

import dataclasses
import inspect
import json
import math
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg

from causalcxr.models._builder import CLASSIFIER

__all__ = ["CONFIG", "MODEL_ARGS", "check_config", "read_config"]

CONFIG = "config.json"

# Arguments of CausalCXR that a config may give.
MODEL_ARGS: dict[str, tuple[type, ...]] = {
    "backbone": (str,),
    "num_classes": (int,),
    "in_chans": (int,),
    "dim": (int,),
    "num_heads": (int,),
    "depth": (int,),
    "complement": (str,),
    "combine": (str,),
    "output_stride": (int,),
    "drop_rate": (int, float),
    "drop_path_rate": (int, float),
    "backbone_args": (dict,),
}
# They choose weights, from anywhere.
NOT_FOR_BACKBONE = inspect.signature(timm.create_model).parameters.keys()
PRETRAINED_CFG = {field.name for field in dataclasses.fields(PretrainedCfg)}
# They lead to other files, or change how weights are read.
NOT_IN_CFG = (
    "url",
    "file",
    "state_dict",
    "hf_hub_id",
    "hf_hub_filename",
    "source",
    "custom_load",
    "label_offset",
    "fixed_input_size",
)


def read_config(path: Path, source: str) -> dict[str, Any]:
    """Return what is in the file, a JSON object that names an architecture.

    Args:
        path: The file.
        source: Where it is from, for messages, such as `"hf-hub:owner/repo"`.

    Raises:
        ValueError: If it is something else.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{CONFIG} of {source} is not JSON ({error}); save or download it again") from error
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise ValueError(f"{CONFIG} of {source} must be an object with an 'architecture', but is {config!r:.200}")
    return config


def check_config(config: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the config of a causal model, or raise `ValueError` saying what is missing, unknown or of a wrong type."""

    def expect(fits: bool, what: str, value: Any) -> None:
        if not fits:
            raise ValueError(f"{CONFIG} of {source} must have {what}, but has {value!r:.200}")

    for key, kind in (("num_classes", int), ("pretrained_cfg", dict)):
        expect(_is(config.get(key), kind), f"{key!r}, of type {kind.__name__}", config.get(key))
    labels, cfg, args = config["num_classes"], config["pretrained_cfg"], config.get("model_args", {})
    expect(labels >= 0, "0 labels or more in 'num_classes'", labels)
    expect(isinstance(args, dict), "an object in 'model_args'", args)
    for part in (cfg, args):
        expect(part.get("num_classes", labels) == labels, f"the same number of labels everywhere, {labels}", part)

    given = {key: value for key, value in args.items() if (key, value) != ("pretrained_backbone", False)}
    unknown = sorted(given.keys() - MODEL_ARGS)
    expect(not unknown, f"only these in 'model_args': {', '.join(MODEL_ARGS)}", unknown)
    for key, value in given.items():
        kinds = MODEL_ARGS[key]
        expect(_is(value, *kinds), f"{kinds[-1].__name__} in 'model_args.{key}'", value)
    elsewhere = sorted(NOT_FOR_BACKBONE & args.get("backbone_args", {}).keys())
    expect(not elsewhere, "nothing in 'model_args.backbone_args' that chooses weights", elsewhere)

    unknown = sorted(cfg.keys() - PRETRAINED_CFG)
    expect(not unknown, "only what timm knows in 'pretrained_cfg'", unknown)
    elsewhere = [key for key in NOT_IN_CFG if cfg.get(key)]
    expect(not elsewhere, "nothing in 'pretrained_cfg' that leads to other weights", elsewhere)
    size, stems, classifier = cfg.get("input_size"), cfg.get("first_conv"), cfg.get("classifier")
    expect(_all(size, int, least=1) and len(size) == 3, "three positive integers in 'input_size'", size)
    for key in ("mean", "std"):
        expect(_all(cfg.get(key), int, float), f"numbers in {key!r}", cfg.get(key))
    expect(min(cfg["std"]) > 0, "positive numbers in 'std'", cfg["std"])
    expect(not stems or isinstance(stems, str) or _all(stems, str), "names in 'first_conv'", stems)
    expect(classifier == list(CLASSIFIER), f"{list(CLASSIFIER)} in 'classifier'", classifier)

    names, calibration = config.get("label_names", cfg.get("label_names")), config.get("calibration")
    if names is not None:
        fits = _all(names, str) and len(names) == len(set(names)) == labels
        expect(fits, f"one name for each of {labels} labels in 'label_names'", names)
    if calibration is not None:
        fits = isinstance(calibration, dict) and calibration.keys() == {"temperature", "thresholds"}
        expect(fits, "'temperature' and 'thresholds', and nothing else, in 'calibration'", calibration)
        temperature, thresholds = calibration["temperature"], calibration["thresholds"]
        fits = _is(temperature, int, float) and temperature > 0
        expect(fits, "a positive number in 'calibration.temperature'", temperature)
        fits = _all(thresholds, int, float, least=0, most=1) and len(thresholds) == labels
        expect(fits, f"a number from 0 to 1 for each of {labels} labels in 'calibration.thresholds'", thresholds)
    return config


def _is(value: Any, *kinds: type) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, kinds) and not isinstance(value, bool)


def _all(values: Any, *kinds: type, least: float = -math.inf, most: float = math.inf) -> bool:
    """Whether `values` is a list with something in it, all of it of these types and within these limits."""
    if not isinstance(values, list) or not values or not all(_is(value, *kinds) for value in values):
        return False
    return str in kinds or all(least <= value <= most for value in values)
