"""Models that run on another server, behind the boundaries of those that run here.

An address is a protocol and a URL: `tei+http://host:8080` for text-embeddings-inference,
`openai+https://host/v1` for everything that speaks OpenAI's API (vLLM, llama.cpp, Ollama, TGI,
OpenAI). What the server calls the model, where that is not the model's id, follows a `#`:
`openai+http://host:11434/v1#qwen2.5:0.5b`.

The id stays the model's own: presets, instructions, tokenizers and the fingerprint of an index
hang on it. The files beside the weights are therefore wanted here, too: always for an embedder
(documents are split with its tokenizer), for the others where they can be had.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import SecretStr
from tokenizers import Encoding, Tokenizer

from rag.embed import Embedder
from rag.errors import InvalidInput, ModelUnavailable
from rag.models.load import is_available, resolve
from rag.models.openai import Dialect, OpenAICausalLM, OpenAIServer
from rag.models.presets import EmbedderPreset, embedder_preset, longest_input, split_task
from rag.models.tei import TeiServer
from rag.models.tokens import TokenVectors, load_tokenizer, tokenize, tokenize_pairs
from rag.models.transport import Limits, Transport
from rag.settings import Settings

log = logging.getLogger(__name__)

_ADDRESS = re.compile(r"(tei|openai)\+(https?://[^\s/?#@]+[^\s?#@]*)(?:#(\S+))?")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a model is served. `served_as`: what it is called there, "" for its id."""

    protocol: Literal["tei", "openai"]
    url: str
    served_as: str = ""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `protocol+url#name`. Raises `InvalidInput`."""
        found = _ADDRESS.fullmatch(text)
        if found is None:
            # The text may hold a password and is not repeated.
            raise InvalidInput(
                "A model's address must be tei+http://host:port or openai+https://host/v1, without "
                "user name, password or query.",
                hint="A key belongs into the setting that ends in _API_KEY.",
            )
        protocol = cast(Literal["tei", "openai"], found[1])
        return cls(protocol, found[2].rstrip("/"), found[3] or "")


class EmbeddingServer(Protocol):
    """A protocol that embeds. `max_tokens` None and `revision` "": it does not say."""

    name: str
    batch_size: int
    revision: str

    @property
    def max_tokens(self) -> int | None:
        """The longest input that it reads, special tokens included."""

    def check_embedder(self, preset: EmbedderPreset) -> None:
        """Raise `ModelUnavailable` where the server is known to embed otherwise."""

    def vectors(self, texts: Sequence[str], *, normalize: bool) -> object:
        """One list of numbers per text, still to be checked."""

    def close(self) -> None:
        """Let the connections go."""


class RemoteEncoder:
    """An `Encoder` whose vectors come from a server. Safe to use from several threads.

    Texts are cut here, at the same token as a local encoder cuts them, and sent in batches of what
    the server takes. Raises `ModelUnavailable` for a server that reads less than the preset says.
    """

    def __init__(
        self, server: EmbeddingServer, preset: EmbedderPreset, tokenizer: Tokenizer
    ) -> None:
        self._server = server
        self.preset = preset
        self.tokenizer = tokenizer
        server.check_embedder(preset)
        if server.max_tokens is not None and server.max_tokens < preset.max_tokens:
            raise ModelUnavailable(
                f"{server.name} reads {server.max_tokens} tokens of a text, the model "
                f"{preset.max_tokens}: the end of long passages would be lost.",
                hint="Start it with a longer input (TEI: --max-batch-tokens; vLLM: "
                "--max-model-len).",
            )
        self.revision = server.revision
        self._dim: int = self._vectors(["dimension"]).shape[1]

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return self._dim

    def encode(self, texts: Sequence[str], *, max_tokens: int) -> NDArray[np.float32]:
        """Pooled vectors, float32 (n, dim), of unit length where the preset normalises.

        In the order of `texts`; what exceeds `max_tokens` is cut. Raises `ModelUnavailable` for
        an answer with other than n vectors of `dim` finite numbers.
        """
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        for start in range(0, len(texts), self._server.batch_size):
            batch = texts[start : start + self._server.batch_size]
            found = self._vectors(cut(self.tokenizer, batch, max_tokens))
            if found.shape[1] != self.dim:
                raise ModelUnavailable(
                    f"{self._server.name} sent vectors of {found.shape[1]} dimensions, before that "
                    f"of {self.dim}: another model runs there now.",
                )
            vectors[start : start + len(batch)] = found
        return vectors

    def token_vectors(
        self,
        texts: Sequence[str],  # noqa: ARG002 - the protocol's
        *,
        max_tokens: int,  # noqa: ARG002
    ) -> list[TokenVectors]:
        """Raise `ModelUnavailable`: servers send the vectors of texts, not of their tokens."""
        raise ModelUnavailable(
            f"{self._server.name} gives no token vectors, which late interaction and the `quote` "
            "generator compare.",
            hint="Set RAG_RERANKER to a cross-encoder or `none` and RAG_GENERATOR to a language "
            "model, or run the embedder in this process (no RAG_EMBEDDER_URL).",
        )

    def close(self) -> None:
        """Let the connections go."""
        self._server.close()

    def _vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        normalize = self.preset.normalize
        raw = self._server.vectors(texts, normalize=normalize)
        return checked_vectors(raw, len(texts), normalize=normalize, name=self._server.name)


class RemoteCrossEncoder:
    """A `CrossEncoder` on a text-embeddings-inference server. Safe to use from several threads.

    With a tokenizer pairs are cut here, as a local cross-encoder cuts them: the passage first.
    Without one the server cuts the longer of question and passage, which is logged once.
    """

    def __init__(self, server: TeiServer, tokenizer: Tokenizer | None, *, max_tokens: int) -> None:
        server.check_reranker()
        self._server = server
        self._tokenizer = tokenizer
        self.revision = server.revision
        self.max_tokens = min(max_tokens, server.max_tokens)
        if tokenizer is None:
            log.warning(
                "%s cuts the longer part of a pair over %d tokens, be it the question: the "
                "reranker's tokenizer is not on this machine.",
                server.name, self.max_tokens,
            )  # fmt: skip

    def logits(self, question: str, passages: Sequence[str]) -> NDArray[np.float32]:
        """The raw score of each passage, float32 (n,), in the order of `passages`."""
        if self._tokenizer is not None and passages:
            question, passages = cut_pairs(self._tokenizer, question, passages, self.max_tokens)
        scores: list[float] = []
        for start in range(0, len(passages), self._server.batch_size):
            batch = passages[start : start + self._server.batch_size]
            scores += self._server.scores(question, batch)
        logits = np.array(scores, dtype=np.float32)
        if not np.isfinite(logits).all():
            raise ModelUnavailable(f"{self._server.name} sent scores that are no numbers.")
        return logits

    def close(self) -> None:
        """Let the connections go."""
        self._server.close()


def remote_limits(settings: Settings) -> Limits:
    """The timeouts and retries that the settings allow."""
    return Limits(
        connect_timeout=settings.remote_connect_timeout,
        read_timeout=settings.remote_read_timeout,
        total_timeout=settings.remote_total_timeout,
        retries=settings.remote_retries,
        retry_wait=settings.remote_retry_wait,
        breaker_failures=settings.remote_breaker_failures,
        breaker_seconds=settings.remote_breaker_seconds,
    )


def remote_encoder(
    model_id: str, address: str, *, api_key: SecretStr | None = None, limits: Limits | None = None
) -> RemoteEncoder:
    """An embedding model on a server. Raises `ModelUnavailable`, `InvalidInput` for the address."""
    parsed = Address.parse(address)
    folder = _embedder_folder(model_id)
    preset = embedder_preset(model_id, folder)
    tokenizer = load_tokenizer(folder, lower_case=preset.lower_case)
    transport = _transport(parsed, "embedder", api_key, limits)
    try:
        return RemoteEncoder(_embedding_server(transport, parsed, model_id), preset, tokenizer)
    except BaseException:
        transport.close()
        raise


def remote_embedder(
    model_id: str, address: str, *, api_key: SecretStr | None = None, limits: Limits | None = None
) -> Embedder:
    """An `Embedder` over `remote_encoder`. Raises as that does.

    Its revision, and with it the fingerprint of an index, is the hub's commit where the server
    tells it (an index made by the model in this process then fits), else what the server calls the
    model where that is not its id, else "".
    """
    encoder = remote_encoder(model_id, address, api_key=api_key, limits=limits)
    return Embedder(model_id, encoder, encoder.preset, encoder.tokenizer, revision=encoder.revision)


def remote_cross_encoder(
    model_id: str, address: str, *, api_key: SecretStr | None = None, limits: Limits | None = None
) -> RemoteCrossEncoder:
    """A cross-encoder on a server. Raises as `remote_encoder`; OpenAI's API has no reranking."""
    parsed = Address.parse(address)
    if parsed.protocol != "tei":
        raise InvalidInput(
            "A reranker must be served by text-embeddings-inference: others send no raw scores.",
            hint="Set RAG_RERANKER_URL to tei+http://host:port.",
        )
    folder = local_folder(model_id)
    tokenizer = load_tokenizer(folder) if folder else None
    transport = _transport(parsed, "reranker", api_key, limits)
    try:
        server = TeiServer(transport, model_id)
        longest = longest_input(model_id, folder) if folder else server.max_tokens
        return RemoteCrossEncoder(server, tokenizer, max_tokens=longest)
    except BaseException:
        transport.close()
        raise


def remote_causal_lm(
    model_id: str,
    address: str,
    *,
    api_key: SecretStr | None = None,
    limits: Limits | None = None,
    dialect: Dialect = "openai",
    context_window: int = 0,
    likely_window: int = 0,
    role: str = "generator",
) -> OpenAICausalLM:
    """A language model on a server that speaks OpenAI's API. Raises as `remote_encoder`.

    `context_window` 0: what the server says, `likely_window` where it says nothing. `dialect` names
    the server where it takes more than OpenAI's parameters (`rag.models.openai`), `role` what the
    settings and errors call it.
    """
    parsed = Address.parse(address)
    if parsed.protocol != "openai":
        raise InvalidInput(
            f"A {role} must be served over OpenAI's API.",
            hint=f"Set RAG_{role.upper()}_URL to openai+http://host:port/v1.",
        )
    transport = _transport(parsed, role, api_key, limits)
    try:
        served_as, prefix = _served_as(parsed, model_id), _prefix(parsed)
        server = OpenAIServer(transport, served_as, prefix=prefix, dialect=dialect)
        folder = local_folder(model_id)
        window = context_window or server.max_tokens or likely_window
        return OpenAICausalLM(server, model_id, folder, context_window=window)
    except BaseException:
        transport.close()
        raise


def local_folder(model_id: str) -> Path | None:
    """A folder on this machine with the model's tokenizer, with or without weights beside it.

    Never touches the network.
    """
    repo, _ = split_task(model_id)
    if is_available(model_id):
        folder = resolve(model_id).path
        return folder if (folder / "tokenizer.json").is_file() else None
    folder = Path(repo).expanduser()
    if (folder / "tokenizer.json").is_file():
        return folder
    return _cached_folder(repo)


def _cached_folder(repo: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(repo, "tokenizer.json")
    except HFValidationError:
        return None
    return Path(path).parent if isinstance(path, str) else None


def _embedder_folder(model_id: str) -> Path:
    folder = local_folder(model_id)
    if folder is None:
        repo, _ = split_task(model_id)
        raise ModelUnavailable(
            f"The tokenizer of {model_id} is not on this machine. Documents are split with it, "
            "also when a server embeds them.",
            hint=f'Fetch it without the weights: `hf download {repo} --include "*.json" "*.txt"`, '
            "or give the path of a folder with these files.",
        )
    return folder


def cut(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> list[str]:
    """Each text up to where a local encoder stops reading: `max_tokens`, special ones included.

    Where the tokenizer segments a text that ends there otherwise (Unigram, BPE), it is cut a token
    or two earlier: the server never reads more than `max_tokens`.
    """
    encodings = tokenize(tokenizer, texts, max_tokens)
    return [
        _cut(tokenizer, text, max_tokens) if len(encoding) >= max_tokens else text
        for text, encoding in zip(texts, encodings, strict=True)
    ]


def _cut(tokenizer: Tokenizer, text: str, max_tokens: int) -> str:
    for room in range(max_tokens, 0, -1):
        (encoding,) = tokenize(tokenizer, [text], room)
        short = text[: _end(encoding, 0)]
        if len(tokenizer.encode(short)) <= max_tokens:
            return short
    return ""


def cut_pairs(
    tokenizer: Tokenizer, question: str, passages: Sequence[str], max_tokens: int
) -> tuple[str, list[str]]:
    """Question and passages up to where a local cross-encoder stops reading; at least one."""
    pairs = tokenize_pairs(tokenizer, question, passages, max_tokens)
    cut = [text[: _end(pair, 1)] for text, pair in zip(passages, pairs, strict=True)]
    return question[: _end(pairs[0], 0)], cut


def _end(encoding: Encoding, sequence: int) -> int:
    """Where the last token of a sequence ends in its text."""
    ends = zip(encoding.offsets, encoding.sequence_ids, strict=True)
    return max((end for (_, end), of in ends if of == sequence), default=0)


def checked_vectors(raw: object, count: int, *, normalize: bool, name: str) -> NDArray[np.float32]:
    """What a server sent as float32 (count, dim), brought to unit length where `normalize`.

    Raises `ModelUnavailable` for another number of vectors, unequal lengths, and what is no finite
    number.
    """
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinite and is found below
            vectors = np.asarray(raw, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ModelUnavailable(f"{name} sent vectors of unequal lengths or no numbers.") from error
    if vectors.ndim != 2 or len(vectors) != count or vectors.shape[1] == 0:
        raise ModelUnavailable(
            f"{name} was sent {count} texts and answered with numbers of shape {vectors.shape}, "
            f"not ({count}, dimensions)."
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (normalize and (lengths == 0).any()):
        raise ModelUnavailable(f"{name} sent vectors that are not finite or have no direction.")
    return vectors / lengths if normalize else vectors


def _transport(
    address: Address, role: str, api_key: SecretStr | None, limits: Limits | None
) -> Transport:
    root = address.url.removesuffix("/v1") if address.protocol == "openai" else address.url
    setting = f"RAG_{role.upper()}"
    return Transport(root, name=role, setting=setting, api_key=api_key, limits=limits)


def _embedding_server(transport: Transport, address: Address, model_id: str) -> EmbeddingServer:
    if address.protocol == "tei":
        return TeiServer(transport, model_id)
    # A name of its own may be another quantisation, whose vectors differ.
    served_as, revision = _served_as(address, model_id), address.served_as
    return OpenAIServer(transport, served_as, prefix=_prefix(address), revision=revision)


def _served_as(address: Address, model_id: str) -> str:
    return address.served_as or split_task(model_id)[0]


def _prefix(address: Address) -> str:
    # vLLM and llama.cpp serve what is not OpenAI's beside /v1, not below it.
    return "/v1" if address.url.endswith("/v1") else ""
