"""text-embeddings-inference: `/info`, `/embed` and `/rerank`.

`truncate` is always sent as true: texts come here cut to what the model may read, and a server
whose own limit is lower than that is refused when it is opened. So true cuts nothing that a local
model would keep; it only spares an error where the server counts a token more than we do.

Start the server without `--default-prompt`: instructions are put before the texts in `rag.embed`,
and `/info` does not tell of a second one.
"""

import logging
from collections.abc import Sequence
from typing import Any

from rag.errors import ModelUnavailable
from rag.models.presets import EmbedderPreset, Pooling, split_task
from rag.models.transport import Transport

log = logging.getLogger(__name__)

_POOLINGS: dict[str, Pooling] = {
    "cls": "cls",
    "mean": "mean",
    "last": "last",
    "last-token": "last",
    "last_token": "last",
    "lasttoken": "last",
}


class TeiServer:
    """One server with one model. Asked once what that is. Safe to use from several threads.

    `max_tokens` is the longest input that it reads, `batch_size` the most texts of one request,
    `revision` the hub commit of its weights ("" where it does not say). Raises `ModelUnavailable`,
    also where it serves another model than `model_id`.
    """

    def __init__(self, transport: Transport, model_id: str) -> None:
        self.name = transport.name
        self._transport = transport
        self._info = self._checked(transport.get("/info"))
        self._check_id(model_id)
        self.max_tokens = int(self._info["max_input_length"])
        self.batch_size = max(1, int(self._info["max_client_batch_size"]))
        self.revision = str(self._info.get("model_sha") or "")

    def check_embedder(self, preset: EmbedderPreset) -> None:
        """Raise `ModelUnavailable` unless this is an embedder that pools as the preset says."""
        kind = self._info["model_type"].get("embedding")
        if not isinstance(kind, dict):
            raise ModelUnavailable(f"{self.name} serves no embedding model.")
        pooling = str(kind.get("pooling"))
        if _POOLINGS.get(pooling.lower()) != preset.pooling:
            raise ModelUnavailable(
                f"{self.name} pools by {pooling}, the model by {preset.pooling}.",
                hint=f"Start it with --pooling {preset.pooling.replace('last', 'last-token')}.",
            )

    def check_reranker(self) -> None:
        """Raise `ModelUnavailable` unless this is a cross-encoder with one logit."""
        if "reranker" not in self._info["model_type"]:
            raise ModelUnavailable(f"{self.name} serves no reranker.")

    def vectors(self, texts: Sequence[str], *, normalize: bool) -> object:
        """What `/embed` answers, which should be one list of numbers per text."""
        body = {"inputs": list(texts), "normalize": normalize, "truncate": True}
        return self._transport.post("/embed", body)

    def scores(self, question: str, passages: Sequence[str]) -> list[float]:
        """The raw logit of each passage, in the order of `passages`."""
        body = {
            "query": question,
            "texts": list(passages),
            "raw_scores": True,  # a sigmoid would round the best ones to the same 1.0
            "return_text": False,
            "truncate": True,
        }
        ranks = self._transport.post("/rerank", body)
        try:
            scores = {int(rank["index"]): float(rank["score"]) for rank in ranks}
        except (TypeError, KeyError, ValueError) as error:
            raise ModelUnavailable(f"{self.name} answered /rerank in an unknown form.") from error
        if len(ranks) != len(passages) or sorted(scores) != list(range(len(passages))):
            raise ModelUnavailable(
                f"{self.name} was sent {len(passages)} passages and scored {sorted(scores)}."
            )
        return [scores[i] for i in range(len(passages))]

    def close(self) -> None:
        """Let the connections go."""
        self._transport.close()

    def _checked(self, info: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON of any form
        needed = {"model_id": str, "max_input_length": int, "max_client_batch_size": int}
        known = isinstance(info, dict) and isinstance(info.get("model_type"), dict)
        if not known or not all(isinstance(info.get(k), t) for k, t in needed.items()):
            raise ModelUnavailable(
                f"{self.name} does not answer /info as text-embeddings-inference does.",
                hint=f"Check {self._transport.setting}_URL.",
            )
        return dict(info)

    def _check_id(self, model_id: str) -> None:
        served, wanted = str(self._info["model_id"]), split_task(model_id)[0]
        if _last_name(served) == _last_name(wanted):
            return
        if served.startswith(("/", ".")):
            log.warning("%s serves %s; nothing tells that it is %s.", self.name, served, wanted)
            return
        raise ModelUnavailable(
            f"{self.name} serves {served}, not {wanted}.",
            hint=f"Set {self._transport.setting} to what it serves, or start it with the other.",
        )


def _last_name(model_id: str) -> str:
    return model_id.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
