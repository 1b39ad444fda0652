"""Encoders and cross-encoders from torch to OpenVINO, compared with torch before they are used.

What becomes of a model: the graph from the embedded tokens on (`model.xml`), and its table of token
embeddings (`embeddings.npy`) beside it. The table stays outside because it is only ever looked up:
mapped into memory, the rows that texts really use are all that becomes resident, where the
vocabulary of XLM-RoBERTa inside the graph costs 770 MB.

This is the one side of OpenVINO that imports torch; a converted model runs without.
"""

import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, cast

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from tokenizers import Encoding
from transformers import PreTrainedModel

from rag.models.cache import NotConvertible
from rag.models.cpu import OnProgress, Precision
from rag.models.load import ModelFiles
from rag.models.openvino import (
    BATCH_TOKENS,
    CONFIG,
    GRAPH,
    REFERENCE,
    TABLE,
    OpenVINOCrossEncoder,
    OpenVINOEncoder,
)
from rag.models.parity import embedding_agreement, fixed_texts, logit_agreement
from rag.models.presets import EmbedderPreset
from rag.models.tokens import load_tokenizer, pad, plan_batches, tokenize, tokenize_pairs
from rag.models.torch import TorchCrossEncoder, TorchEncoder, pool

log = logging.getLogger(__name__)

SELF_CHECK_ROWS = 4
_LARGEST_HALF = 65504.0  # of float16


def convert_encoder(
    files: ModelFiles,
    preset: EmbedderPreset,
    part: Path,
    precision: Precision,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Write a converted encoder into `part`; its agreement with torch in float32.

    Raises `NotConvertible` when the exporter cannot do it, `ModelUnavailable`.
    """
    texts = fixed_texts()
    tokenizer = load_tokenizer(files.path, lower_case=preset.lower_case)
    questions = [preset.query_instruction + text for text in texts.questions]
    passages = [preset.passage_instruction + text for text in texts.passages]
    asked = tokenize(tokenizer, questions, preset.max_tokens)
    read = tokenize(tokenizer, passages, preset.max_tokens)

    on_progress(f"{files.id}: loading it with torch")
    reference = TorchEncoder(files, preset, device="cpu")
    model = reference.model
    _convert(files, model, _Encoder(model, preset), part, precision, on_progress)

    on_progress(f"{files.id}: comparing {precision} with torch")
    expected = [_vectors(reference, batch) for batch in (asked, read)]
    _write_reference(part, asked, expected[0])
    engine = OpenVINOEncoder(part, precision)
    found = [_vectors(engine, batch) for batch in (asked, read)]
    agreement = embedding_agreement((expected[0], found[0]), (expected[1], found[1]))
    return _record(files, precision, agreement)


def convert_cross_encoder(
    files: ModelFiles, part: Path, precision: Precision, max_tokens: int, on_progress: OnProgress
) -> dict[str, Any]:
    """Write a converted cross-encoder into `part`; its agreement with torch in float32.

    Raises `NotConvertible` when the exporter cannot do it, `ModelUnavailable`.
    """
    texts = fixed_texts()
    tokenizer = load_tokenizer(files.path)
    pairs = [
        pair
        for question in texts.questions[:6]
        for pair in tokenize_pairs(tokenizer, question, texts.passages[:12], max_tokens)
    ]
    on_progress(f"{files.id}: loading it with torch")
    reference = TorchCrossEncoder(files, device="cpu", max_tokens=max_tokens)
    model = reference.model
    _convert(files, model, _CrossEncoder(model), part, precision, on_progress)

    on_progress(f"{files.id}: comparing {precision} with torch")
    expected = _logits(reference, pairs)
    _write_reference(part, pairs, expected)
    engine = OpenVINOCrossEncoder(part, precision, max_tokens=max_tokens)
    found = _logits(engine, pairs)
    agreement = logit_agreement(expected.reshape(6, -1), found.reshape(6, -1))
    return _record(files, precision, agreement)


class _Encoder(torch.nn.Module):
    """Embedded tokens to the pooled vector and to the tokens' own vectors."""

    def __init__(self, model: PreTrainedModel, preset: EmbedderPreset) -> None:
        super().__init__()
        self.model = model
        self.preset = preset

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        states = self.model(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, **types
        ).last_hidden_state
        pooled = pool(states, attention_mask, self.preset)
        return pooled, torch.nn.functional.normalize(states, dim=-1)


class _CrossEncoder(torch.nn.Module):
    """Embedded tokens of a pair to its logit."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor]:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        logits = self.model(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, **types
        ).logits
        return (logits[:, 0],)


def _convert(
    files: ModelFiles,
    model: PreTrainedModel,
    wrapped: torch.nn.Module,
    part: Path,
    precision: Precision,
    on_progress: OnProgress,
) -> None:
    """Write graph, table and configuration."""
    types = (getattr(model.config, "type_vocab_size", None) or 1) > 1
    on_progress(f"{files.id}: converting it to OpenVINO, once")
    table = _table(model)
    np.save(part / TABLE, _stored(table, precision))
    config = {
        "dim": int(model.config.hidden_size),
        "pad_id": model.config.pad_token_id or 0,
        "types": types,
    }
    (part / CONFIG).write_text(json.dumps(config), "utf-8")
    outputs = ("pooled", "states") if isinstance(wrapped, _Encoder) else ("logits",)
    graph = _trace(files, wrapped, types, table.shape[1], outputs)
    if precision == "int8":
        on_progress(f"{files.id}: quantising it to int8, once")
        graph = _quantised(graph)
    ov.save_model(graph, part / GRAPH, compress_to_fp16=False)


def _table(model: PreTrainedModel) -> NDArray[np.float32]:
    """The token embeddings, float32 (vocabulary, dim)."""
    weight = cast(torch.nn.Embedding, model.get_input_embeddings()).weight
    table: NDArray[np.float32] = weight.detach().float().numpy()
    return table


def _trace(
    files: ModelFiles, wrapped: torch.nn.Module, types: bool, width: int, outputs: Sequence[str]
) -> ov.Model:
    """The graph of a module, with named inputs and outputs and any number of rows and tokens."""
    mask = torch.ones((2, 16), dtype=torch.int64)
    mask[1, 8:] = 0
    example = {"inputs_embeds": torch.rand((2, 16, width)), "attention_mask": mask}
    if types:
        example["token_type_ids"] = torch.zeros_like(mask)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's, about what parity is there to check
            graph = ov.convert_model(wrapped.eval(), example_input=example)
    except Exception as error:
        raise NotConvertible(f"OpenVINO cannot convert {files.id}: {error}") from error
    for output, name in zip(graph.outputs, outputs, strict=True):
        output.get_tensor().set_names({name})
    return graph


def _quantised(graph: ov.Model) -> ov.Model:
    """Weights in int8, a scale and a zero point per row of each matrix.

    Activations follow while it runs, each group of them by its own range (`ACTIVATION_GROUPS`), so
    that nothing is calibrated. Ranges fixed beforehand on calibration texts are a quarter faster
    and give more than twice as many texts another nearest neighbour: see the log of 2026-11-25.
    """
    import nncf  # takes seconds, and only int8 needs it

    with _quiet():
        return cast(ov.Model, nncf.compress_weights(graph, mode=nncf.CompressWeightsMode.INT8_ASYM))


@contextmanager
def _quiet() -> Iterator[None]:
    """nncf logs much, and draws its bars on stdout, where a script reads an answer."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(level)


def _stored(table: NDArray[np.float32], precision: Precision) -> NDArray[np.floating[Any]]:
    """float16 where the graph is coarser than that anyway: half the disk and page cache."""
    if precision == "f32" or float(np.abs(table).max()) > _LARGEST_HALF:
        return table
    return table.astype(np.float16)


def _vectors(
    engine: TorchEncoder | OpenVINOEncoder, encodings: Sequence[Encoding]
) -> NDArray[np.float32]:
    vectors = np.empty((len(encodings), engine.dim), dtype=np.float32)
    for batch in plan_batches([len(e) for e in encodings], BATCH_TOKENS):
        vectors[batch] = engine.pooled([encodings[i] for i in batch])
    return vectors


def _logits(
    engine: TorchCrossEncoder | OpenVINOCrossEncoder, pairs: Sequence[Encoding]
) -> NDArray[np.float32]:
    logits = np.empty(len(pairs), dtype=np.float32)
    for batch in plan_batches([len(pair) for pair in pairs], BATCH_TOKENS):
        logits[batch] = engine.scores([pairs[i] for i in batch])
    return logits


def _write_reference(
    part: Path, encodings: Sequence[Encoding], expected: NDArray[np.float32]
) -> None:
    step = max(1, len(encodings) // SELF_CHECK_ROWS)
    rows = encodings[::step]
    np.savez(
        part / REFERENCE,
        ids=pad([e.ids for e in rows], 0),
        mask=pad([e.attention_mask for e in rows], 0),
        types=pad([e.type_ids for e in rows], 0),
        expected=expected[::step],
        scale=expected.std(),
    )


def _record(files: ModelFiles, precision: str, agreement: Mapping[str, float]) -> dict[str, Any]:
    figures = {name: round(value, 6) for name, value in agreement.items()}
    log.info("%s in %s against torch in f32: %s", files.id, precision, figures)
    return {"figures": figures, "converted": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
