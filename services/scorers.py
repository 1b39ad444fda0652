"""Who scores the rows of a folder: this process, or the server that has the data folder open.

Either way each input has a text or an error of its own, and the texts are the same.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Any, Protocol
from urllib.parse import quote

from rag import scoring
from rag.errors import Overloaded, RagError, StoreUnreachable
from rag.orchestrator import Orchestrator
from rag.scoring import Scoring
from rag.settings import Settings
from services.azureml import MAX_INPUTS
from services.client import Client
from services.reach import client_of, open_or_find

LONGEST_PAUSE = 60.0  # that a server may ask for


class TookTooLong(RagError):
    """An attempt at a mini batch did not end in its time."""


class Scorer(Protocol):
    """What makes texts of inputs."""

    def validate(self, how: Scoring) -> None:
        """Raises InvalidInput, NotFound before anything is computed."""

    def score(
        self, inputs: Sequence[str], how: Scoring, seconds: float | None
    ) -> Sequence[str | RagError]:
        """A text or an error for each input; TookTooLong for all that are not done in time."""


class InProcess:
    """Scores with the models of this process."""

    def __init__(self, rag: Orchestrator) -> None:
        self._rag = rag

    def validate(self, how: Scoring) -> None:
        """Parameters and collection."""
        how.validate(self._rag)

    def score(
        self, inputs: Sequence[str], how: Scoring, seconds: float | None
    ) -> Sequence[str | RagError]:
        """All together, so that they share the model's batches."""
        end = None if seconds is None else time.monotonic() + seconds
        with closing(scoring.score(self._rag, list(inputs), how)) as steps:
            for made in steps:
                if made is not None:
                    return made
                if end is not None and time.monotonic() > end:
                    return [_too_long(seconds)] * len(inputs)
        raise AssertionError("scoring ended without texts")


class ByServer:
    """Scores through POST /score."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings

    def validate(self, how: Scoring) -> None:
        """By the settings here, and the server's collections."""
        how.sampling.validate(self._settings.max_new_tokens)
        if how.retrieval:
            self._client.get(f"/v1/collections/{quote(how.collection, safe='')}")

    def score(
        self, inputs: Sequence[str], how: Scoring, seconds: float | None
    ) -> Sequence[str | RagError]:
        """As many in one request as it takes."""
        made: list[str | RagError] = []
        for at in range(0, len(inputs), MAX_INPUTS):
            made += self._part(inputs[at : at + MAX_INPUTS], how, seconds)
        return made

    def _part(
        self, inputs: Sequence[str], how: Scoring, seconds: float | None
    ) -> Sequence[str | RagError]:
        """One bad input fails a whole request: then each is sent by itself."""
        try:
            rows: list[dict[str, str]] = self._client.try_post(
                "/score", _body(inputs, how), seconds=seconds
            )
        except TimeoutError:
            return [_too_long(seconds)] * len(inputs)
        except (Overloaded, StoreUnreachable) as error:
            if isinstance(error, Overloaded):
                time.sleep(min(error.retry_after, LONGEST_PAUSE))  # as it asked for
            return [error] * len(inputs)
        except RagError as error:
            if len(inputs) == 1:
                return [error]
            return [self._part([one], how, seconds)[0] for one in inputs]
        return [row[str(number)] for number, row in enumerate(rows)]


@contextmanager
def scoring_with(settings: Settings) -> Iterator[Scorer]:
    """This process, or the server that has the data folder open. Raises DataFolderBusy."""
    found = open_or_find(settings)
    if isinstance(found, str):
        with client_of(found, settings) as client:
            yield ByServer(client, settings)
    else:
        with found:
            yield InProcess(found)


def _body(inputs: Sequence[str], how: Scoring) -> Mapping[str, Any]:
    sampling = {name: value for name, value in asdict(how.sampling).items() if value is not None}
    sampling["stop"] = list(how.sampling.stop)
    parameters = {**sampling, "return_full_text": how.full_text}
    return {
        "input_data": {"input_string": list(inputs), "parameters": parameters},
        "retrieval": how.retrieval,
        "collection": how.collection,
    }


def _too_long(seconds: float | None) -> TookTooLong:
    return TookTooLong(f"It was not done in {seconds:g} seconds.")
