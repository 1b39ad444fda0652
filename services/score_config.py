"""How a folder is scored: a YAML file in the words of Azure Machine Learning's batch deployments.

    mini_batch_size: 10
    retry_settings: {max_retries: 3, timeout: 30}
    error_threshold: -1
    output_file_name: predictions.csv
    parameters: {temperature: 0.7, top_p: 0.9, max_new_tokens: 100, do_sample: true}
    retrieval: true
    collection: default

The first four may stand under `settings` as well. Keys that say where and by what Azure would run
it are ignored: IGNORED lists them. All others are refused by name.
"""

import logging
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from rag.errors import InvalidInput, NotFound
from rag.sampling import Sampling
from rag.scoring import Scoring
from services.score_batch import ERRORS, Batching

IGNORED = frozenset({
    "$schema", "code_configuration", "compute", "default", "description", "endpoint_name",
    "environment", "environment_variables", "instance_count", "max_concurrency_per_instance",
    "model", "name", "properties", "resources", "tags", "type",
})  # fmt: skip


class _Read(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RetrySettings(_Read):
    """`timeout` is in seconds, for one attempt at a mini batch; None: it may take any time."""

    max_retries: int = Field(3, ge=0)
    timeout: float | None = Field(None, gt=0)


class Parameters(_Read):
    """How texts are generated; their ranges are checked by `rag.sampling`."""

    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    do_sample: bool | None = None
    seed: int | None = None
    return_full_text: bool = False


def _not_of_errors(name: str) -> str:
    if name == ERRORS:
        raise ValueError(f"{ERRORS} is where failed rows go")
    return name


class ScoreConfig(_Read):
    """The file."""

    mini_batch_size: int = Field(10, ge=1)
    retry_settings: RetrySettings = RetrySettings()
    error_threshold: int = Field(-1, ge=-1)
    output_action: Literal["append_row"] = "append_row"
    output_file_name: Annotated[str, AfterValidator(_not_of_errors)] = Field(
        "predictions.csv", pattern=r"^[\w.-]+\.csv$"
    )
    logging_level: Literal["debug", "info", "warning", "error"] = "warning"
    parameters: Parameters = Parameters()
    retrieval: bool | None = None
    collection: str | None = None

    def with_options(self, **given: Any) -> "ScoreConfig":  # noqa: ANN401 - its fields'
        """The same where an option is None; else as the options of the command say."""
        found = {name: value for name, value in given.items() if value is not None}
        retries = _taken(found, {"retries": "max_retries", "timeout": "timeout"})
        drawn = _taken(found, {name: name for name in Parameters.model_fields})
        return self.model_copy(
            update={
                **found,
                "retry_settings": self.retry_settings.model_copy(update=retries),
                "parameters": self.parameters.model_copy(update=drawn),
            }
        )

    @property
    def scoring(self) -> Scoring:
        """What is done with a row. A collection that is named is answered from."""
        own = self.parameters
        sampling = Sampling(own.temperature, own.top_p, own.max_new_tokens, own.do_sample, own.seed)
        retrieval = self.collection is not None if self.retrieval is None else self.retrieval
        return Scoring(sampling, retrieval, self.collection or "default", own.return_full_text)

    @property
    def batching(self) -> Batching:
        """How rows are put together, and tried again."""
        retries = self.retry_settings
        return Batching(
            self.mini_batch_size,
            retries.max_retries,
            self.error_threshold,
            retries.timeout,
            self.output_file_name,
        )

    @property
    def level(self) -> int:
        """The level of what is logged, as `logging` numbers it."""
        return logging.getLevelNamesMapping()[self.logging_level.upper()]


def read_config(path: Path) -> ScoreConfig:
    """Read a file. Raises NotFound, InvalidInput naming what is wrong."""
    try:
        found = yaml.safe_load(path.read_text("utf8"))
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise InvalidInput(f"{path} is no YAML: {first}.") from None
    if not isinstance(found, dict):
        raise InvalidInput(f"{path} holds no keys.", hint="For example: mini_batch_size: 10.")
    own = {key: value for key, value in found.items() if key not in IGNORED}
    nested = own.pop("settings", None) or {}
    if not isinstance(nested, dict):
        raise InvalidInput(f"{path}: settings holds no keys.")
    own = {**{key: value for key, value in nested.items() if key not in IGNORED}, **own}
    try:
        return ScoreConfig(**own)
    except ValidationError as error:
        raise InvalidInput(f"{path}: {_first(error)}", hint=_hint(error)) from None


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    where = ".".join(str(step) for step in found["loc"])
    if found["type"] == "extra_forbidden":
        return f"there is no key {where!r}."
    return f"{where}: {found['msg']}."


def _hint(error: ValidationError) -> str:
    found = error.errors()[0]
    if found["type"] == "extra_forbidden":
        return f"There are: {', '.join(sorted(ScoreConfig.model_fields))}."
    if found["loc"][0] == "output_action":
        return "Each row has its own line; there is no other way to write them here."
    return ""


def _taken(given: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Take options out of all that were given, under the names that they have here."""
    return {here: given.pop(name) for name, here in names.items() if name in given}
