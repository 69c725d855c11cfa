"""Tables of the Hugging Face hub at one commit.

`huggingface_hub` downloads the repository's files at that commit to its cache, unless the user has filled a mirror, and
`datasets` reads the split from the folder. `datasets` is not asked for the repository itself, because offline it would
fall back to any version in its own cache.

The libraries' environment variables HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT and HF_TOKEN apply. No code of the repository
is run.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srt.common.errors import SrtError

if TYPE_CHECKING:
    from srt.config.datasets import HubDataset


def mirror_folder(config: HubDataset, local_dir: Path | None) -> Path | None:
    """`{local_dir}/{owner}/{name}/{revision}`, the place of a copy of the repository's files at that commit."""
    return local_dir / config.repo / config.revision if local_dir is not None else None


def read_hub(config: HubDataset, local_dir: Path | None) -> tuple[list[str], list[dict[str, Any]], str | None]:
    """Column names and rows of the split, and the commit (None for a mirror of a branch or tag).

    Reads the mirror folder if it exists, else the hub or its cache.
    """
    folder = mirror_folder(config, local_dir)
    commit = config.revision if config.unpinned is None else None
    if folder is None or not folder.is_dir():
        folder = download(config)
        commit = folder.name  # huggingface_hub names a snapshot after its commit
    return *_read_split(config, folder), commit


def download(config: HubDataset, cache: Path | None = None) -> Path:
    """The files of a repository at the entry's commit, in a cache of the hub (None: the usual one)."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import disable_progress_bars

    from srt.common.progress import is_terminal

    if not is_terminal():
        disable_progress_bars()
    at = f"{config.repo} at {config.revision}"
    target = Path("DIR") / config.repo / config.revision
    download = f"hf download {config.repo} --repo-type dataset --revision {config.revision} --local-dir {target}"
    try:
        return Path(snapshot_download(config.repo, repo_type="dataset", revision=config.revision, cache_dir=cache))
    except GatedRepoError:
        raise SrtError(f"{at} is gated: accept its terms on the hub and set HF_TOKEN") from None
    except RepositoryNotFoundError:
        raise SrtError(
            f"the hub has no data set {config.repo}, or it is private: correct `repo`, or set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise SrtError(f"{config.repo} has no commit {config.revision}: correct `revision`") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        # LocalEntryNotFoundError covers: offline, no connection, an incomplete snapshot in the cache
        cause = "offline mode is on: HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else _cause(error)
        raise SrtError(
            f"cannot get {at} from the hub, and the cache does not have all of it ({cause}): rerun with a connection, "
            f"or run `{download}` on a machine with one and set local_dir to DIR"
        ) from None


def _read_split(config: HubDataset, folder: Path) -> tuple[list[str], list[dict[str, Any]]]:
    import datasets

    from srt.common.progress import is_terminal

    if not is_terminal():
        datasets.disable_progress_bars()
    at = f"{config.repo} at {config.revision}"
    # A separate cache folder: the shared one is keyed by path and time, and would keep a second copy of the data.
    with tempfile.TemporaryDirectory(prefix="srt-datasets-") as cache:
        try:
            loaded = datasets.load_dataset(str(folder), name=config.config_name, split=config.split, cache_dir=cache)
        except OSError as error:
            if error.errno is not None and not isinstance(error, FileNotFoundError):
                raise  # disk full, no permission: run_cli explains these
            raise SrtError(f"{at}: {_cause(error)}: correct `repo`, `revision` or the mirror folder") from error
        except datasets.exceptions.DatasetGenerationError as error:
            raise SrtError(
                f"{at}: split '{config.split}' cannot be read ({_cause(error)}): delete {folder} and download it again"
            ) from error
        except (ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            raise SrtError(f"{at}: {_cause(error)}: correct `split` or `config_name`") from error
        return list(loaded.column_names), loaded.with_format("arrow")[:].to_pylist()


def _cause(error: BaseException) -> str:
    """The innermost cause in one line; `datasets` wraps errors in 'an error occurred while generating'."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if len(text) <= 300 else text[:300] + "…").rstrip(".")
