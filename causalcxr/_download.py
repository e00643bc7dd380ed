"""Files of a repository on the Hugging Face Hub, with errors that say what to do."""

from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

__all__ = ["LOG_IN", "download", "refused"]

LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
# What the client raises when a connection breaks is an HTTPError of the library below it, which is not always the same.
TRANSPORT_ERRORS: tuple[type[Any], ...] = (HfHubHTTPError, *HfHubHTTPError.__bases__, OSError)


def download(repo_id: str, filename: str, revision: str | None, cache_dir: str | Path | None) -> Path:
    """Return the path of a file in the cache, downloaded if it is not there yet.

    Raises:
        PermissionError: If the repository is private or gated.
        FileNotFoundError: If there is no such repository, revision or file, or the file is not in the cache and the
            Hub is not asked (`HF_HUB_OFFLINE`).
        ConnectionError: If the Hub cannot be reached, or the download was interrupted.
        ValueError: If `repo_id` cannot be the name of a repository.
    """
    try:
        return Path(hf_hub_download(repo_id, filename, revision=revision, cache_dir=cache_dir))
    except TRANSPORT_ERRORS as error:
        raise _explained(error, repo_id, filename, revision) from error


def refused(error: Exception) -> bool:
    """Whether the Hub refused access: the repository is private or gated, or the token is wrong."""
    response: Any = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return isinstance(error, GatedRepoError) or getattr(response, "status_code", None) in (401, 403)


def _explained(error: Exception, repo_id: str, filename: str, revision: str | None) -> OSError:
    at = f" at revision {revision!r}" if revision else ""
    if refused(error):
        return PermissionError(
            f"no access to {repo_id!r}{at}: the repository is private or gated, or does not exist; {LOG_IN}, and ask "
            "for access on its page if it is gated"
        )
    if isinstance(error, RepositoryNotFoundError):
        return FileNotFoundError(f"no repository {repo_id!r} on the Hub; if it is private, {LOG_IN}")
    if isinstance(error, RevisionNotFoundError):
        return FileNotFoundError(f"repository {repo_id!r} has no revision {revision!r}; give a branch, tag or commit")
    if isinstance(error, LocalEntryNotFoundError):
        missing = f"{filename} of {repo_id!r}{at} is not in the cache"
        if constants.HF_HUB_OFFLINE:
            return FileNotFoundError(f"{missing} and HF_HUB_OFFLINE is set; load it once without HF_HUB_OFFLINE")
        return ConnectionError(f"{missing} and {constants.ENDPOINT} does not answer; check the connection")
    if isinstance(error, EntryNotFoundError):
        return FileNotFoundError(f"repository {repo_id!r}{at} has no file {filename}")
    return ConnectionError(f"the download of {filename} of {repo_id!r}{at} failed ({error}); load it again")
