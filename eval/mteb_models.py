"""The configured embedder and reranker as models of MTEB. Needs the extra `mteb`.

Muennighoff et al., "MTEB: Massive Text Embedding Benchmark" (EACL 2023). What is measured is what
runs here: the engine, precision, instructions and limits of this machine's settings.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from mteb.models import ModelMeta
from mteb.similarity_functions import cos_sim, pairwise_cos_sim
from mteb.types import PromptType
from numpy.typing import NDArray

from rag.embed import Embedder
from rag.rerank import Reranker

Batches = Iterable[Mapping[str, Sequence[Any]]]  # texts are under "text"


class EmbedderModel:
    """MTEB's `EncoderProtocol` over an embedder."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.mteb_model_meta = _meta(embedder.id, embedder.fingerprint, "dense")

    def encode(
        self, inputs: Batches, *, prompt_type: PromptType | None = None, **_: object
    ) -> NDArray[np.float32]:
        """Vectors, float32 (n, dim). Only what MTEB calls a query gets the instruction of one."""
        embed = self._embedder.embed_passages
        if prompt_type == PromptType.query:
            embed = self._embedder.embed_queries
        found = [embed(list(batch["text"])) for batch in inputs]
        return np.concatenate(found) if found else np.zeros((0, self._embedder.dim), np.float32)

    def similarity(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> Any:  # noqa: ANN401
        """Cosines of all pairs, as a tensor (n of a, n of b)."""
        return cos_sim(a, b)

    def similarity_pairwise(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> Any:  # noqa: ANN401 - MTEB's own type
        """Cosines of a's vectors with b's of the same row, (n,)."""
        return pairwise_cos_sim(a, b)


class RerankerModel:
    """MTEB's `CrossEncoderProtocol` over a reranker, whose bare relevance it scores by.

    Late interaction weighs the question's tokens by how many of the passages to score hold them.
    """

    def __init__(self, reranker: Reranker, embedder: Embedder) -> None:
        self._reranker = reranker
        self._embedder = embedder
        made_from = {"reranker": reranker.id, "embedder": embedder.fingerprint}
        self.mteb_model_meta = _meta(reranker.id, made_from, "cross-encoder")

    def predict(self, inputs1: Batches, inputs2: Batches, **_: object) -> NDArray[np.float32]:
        """The relevance of each pair of question and passage, float32 (n,)."""
        pairs = list(zip(_texts(inputs1), _texts(inputs2), strict=True))
        counts = self._token_counts({passage for _, passage in pairs})
        total = len({passage for _, passage in pairs})

        def frequencies(tokens: Sequence[int]) -> tuple[dict[int, int], int]:
            return {token: counts[token] for token in tokens}, total

        found = [
            self._reranker.relevance(question, [passage for _, passage in group], frequencies)
            for question, group in groupby(pairs, key=lambda pair: pair[0])
        ]
        return np.concatenate(found) if found else np.zeros(0, np.float32)

    def _token_counts(self, passages: set[str]) -> Counter[int]:
        encoded = self._embedder.tokenizer.encode_batch(sorted(passages))
        return Counter(token for one in encoded for token in set(one.ids))


def _texts(batches: Batches) -> Iterator[str]:
    for batch in batches:
        yield from batch["text"]


def _meta(id_: str, made_from: Mapping[str, Any], kind: str) -> ModelMeta:
    """What results are kept under: a model of another fingerprint is another revision."""
    revision = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
    name = id_ if "/" in id_ else f"ragstone/{id_}"
    return ModelMeta.create_empty({"name": name, "revision": revision, "model_type": [kind]})
