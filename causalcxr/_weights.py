"""The file of weights that a pretrained cfg names: safetensors, whole, and the one that its config describes."""

import hashlib
import json
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from timm.models import PretrainedCfg

from causalcxr._download import download

__all__ = ["PICKLE", "WEIGHTS", "check_source", "sha256"]

WEIGHTS = "model.safetensors"
PICKLE = "pytorch_model.bin"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".tar")


def check_source(cfg: PretrainedCfg, cache_dir: str | Path | None = None) -> dict[str, Any]:
    """Check the weights that timm would load, downloaded if need be.

    Args:
        cfg: The pretrained cfg.
        cache_dir: Folder of downloads. Default: the Hub client's.

    Returns:
        What to change in the cfg: the commit, for a repository, so that what was checked is what is loaded.

    Raises:
        FileNotFoundError: If there are no weights.
        ValueError: If they are a pickle, which is never opened, or damaged.
    """
    if cfg.source == "local-dir":
        _check_folder(Path(cfg.file))
    elif cfg.source == "hf-hub" or (cfg.hf_hub_id and not cfg.state_dict and not cfg.file):
        return {"hf_hub_id": _check_repository(cfg, cache_dir)}
    elif cfg.file and Path(cfg.file).suffix == ".safetensors":
        _check_file(Path(cfg.file), "restore it")
    return {}


def sha256(path: Path) -> str:
    """Return the SHA-256 sum of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_folder(folder: Path) -> None:
    path = folder / WEIGHTS
    if not path.is_file():
        pickles = [file.name for file in sorted(folder.glob("*")) if file.suffix in PICKLES]
        if pickles:
            raise _is_pickle(pickles[0], str(folder))
        raise FileNotFoundError(f"no {WEIGHTS} in {folder}; causalcxr.save_pretrained writes one")
    _check_file(path, "save or copy the folder again")
    _check_sum(path, "save or copy the folder again")


def _check_repository(cfg: PretrainedCfg, cache_dir: str | Path | None) -> str:
    """Return the repository with the commit whose weights were checked."""
    repo_id, _, revision = cfg.hf_hub_id.partition("@")
    filename = cfg.hf_hub_filename or WEIGHTS
    if not filename.endswith(".safetensors"):
        raise _is_pickle(filename, repr(repo_id))
    try:
        path = download(repo_id, filename, revision or None, cache_dir)
    except FileNotFoundError as error:
        if _not_there(error.__cause__) and HfApi().file_exists(repo_id, PICKLE, revision=revision or None):
            raise _is_pickle(PICKLE, repr(repo_id)) from error
        raise
    again = f"delete {path.resolve()} to download it from {repo_id!r} again"
    _check_file(path, again)
    _check_sum(path, again)
    return f"{repo_id}@{path.parents[filename.count('/')].name}"  # .../snapshots/COMMIT/FILE


def _not_there(error: BaseException | None) -> bool:
    """Whether a file is missing in a repository, rather than in the cache alone."""
    return isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)


def _check_file(path: Path, again: str) -> None:
    try:
        with safe_open(path, framework="pt"):
            pass  # the header says how long the file is
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file ({error}); {again}") from error


def _check_sum(path: Path, again: str) -> None:
    config = path.with_name("config.json")
    expected = json.loads(config.read_text(encoding="utf-8")).get("sha256") if config.is_file() else None
    if expected and (found := sha256(path)) != expected:
        raise ValueError(f"{path} is damaged or was changed: its SHA-256 sum is {found}, not {expected}; {again}")


def _is_pickle(filename: str, place: str) -> ValueError:
    return ValueError(
        f"{place} has {filename} instead of {WEIGHTS}: a pickle, which may run code when opened, so it is not opened; "
        f"if you trust it, build the model, load torch.load({filename!r}, weights_only=True) into it, and write it "
        "with causalcxr.save_pretrained"
    )
