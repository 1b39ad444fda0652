"""Causal LMs from torch to OpenVINO, compared with torch before they are used.

The graph comes from transformers' own exporter, which calls itself experimental, so nothing that it
writes is trusted: the pipeline that will serve the model writes greedy answers to fixed prompts,
and torch in float32 says at every position what it would have written. This is the one side of
`genai.py` that imports torch; a converted model runs without.
"""

import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openvino as ov
import torch
from jinja2 import TemplateError
from openvino_genai import ContinuousBatchingPipeline
from openvino_genai import GenerationConfig as PipelineConfig
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.exporters import exporter_dynamo
from transformers.exporters.configs import OpenVINOConfig
from transformers.exporters.exporter_openvino import OpenVINOExporter

from rag.models.cache import NotConvertible
from rag.models.chat import ChatTemplate
from rag.models.cpu import Cpu, Precision
from rag.models.genai import (
    BLOCK_TOKENS,
    GRAPH,
    MAX_RUNNING,
    TOKENIZER,
    Description,
    open_pipeline,
    token_tensor,
)
from rag.models.load import ModelFiles
from rag.models.parity import faults, fixed_texts
from rag.models.torch import context_window, load_model, load_pretrained_tokenizer

log = logging.getLogger(__name__)

PARITY_TOKENS = 24  # written after each prompt
# Prompts of so many tokens: one block, several, and more than one forward pass takes.
PARITY_PROMPTS = (9, 40, 75, 150, 300)

# What shapes an answer in transformers and is not to be had from the pipeline; with it, the values
# that change nothing. `min_new_tokens` is there, but as logits of 0 where minus infinity is meant.
_UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "top_h": (None,),
    "typical_p": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "no_repeat_ngram_size": (None, 0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1.0),
    "bad_words_ids": (None,),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "sequence_bias": (None,),
    "exponential_decay_length_penalty": (None,),
    "guidance_scale": (None, 1.0),
    "penalty_alpha": (None,),
    "watermarking_config": (None,),
}


def export_or_refuse(
    files: ModelFiles,
    folder: Path,
    precisions: Sequence[Precision],
    cpu: Cpu,
    *,
    min_agreement: float,
) -> dict[str, Any]:
    """Write the converted model into `folder`; what is to be remembered of it.

    That is `refused`, a sentence, with nothing written, where it does not convert or agree. Raises
    `ModelUnavailable` when the model cannot be loaded in torch either.
    """
    started = time.monotonic()
    try:
        record = _export(files, folder, precisions, cpu, min_agreement)
    except NotConvertible as refusal:
        for path in folder.iterdir():
            path.unlink()
        return {"refused": str(refusal)}
    return record | {"seconds": round(time.monotonic() - started, 1)}


def _export(
    files: ModelFiles,
    folder: Path,
    precisions: Sequence[Precision],
    cpu: Cpu,
    min_agreement: float,
) -> dict[str, Any]:
    cpu.on_progress(f"{files.id}: loading it with torch")
    tokenizer = load_pretrained_tokenizer(files)
    backend = _write_tokenizer(files, tokenizer, folder)
    model = load_model(AutoModelForCausalLM, files, torch.device("cpu"))
    about = _describe(files, model, tokenizer)
    model.config.save_pretrained(folder)

    cpu.on_progress(f"{files.id}: converting it to OpenVINO, once")
    graph = _convert(files, model)
    tried = {}
    for precision in precisions:
        cpu.on_progress(f"{files.id}: storing weights for {precision}, comparing with torch")
        _write_graph(graph, precision, folder)
        prompts = _prompts(backend, about["context_window"])
        figures, block_bytes = _compare(files, folder, precision, model, prompts, cpu)
        tried[precision] = figures
        log.info("%s in %s against torch in f32: %s", files.id, precision, figures)
        if not (wrong := faults(figures, {"agreement": min_agreement})):
            Description(precision=precision, block_bytes=block_bytes, **about).save(folder)
            return {"precision": precision, "figures": figures, "tried": tried}
        cpu.on_progress(f"{files.id} in {precision} is not used: {'; '.join(wrong)}")
    raise NotConvertible(
        f"OpenVINO writes other tokens than torch with {files.id} in {precision}: {wrong[0]}."
    )


def _write_tokenizer(
    files: ModelFiles, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> Tokenizer:
    """The fast tokenizer as transformers sets it up, which can differ from the model's file."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise NotConvertible(f"The tokenizer of {files.id} has no fast version.")
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.save(str(folder / TOKENIZER))
    return copy


def _describe(
    files: ModelFiles, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """The fields of `Description` that do not depend on the precision."""
    template = tokenizer.get_chat_template() if tokenizer.chat_template is not None else None
    special = {
        name: list(map(str, text)) if isinstance(text, list | tuple) else str(text)
        for name, text in tokenizer.special_tokens_map.items()
    }
    if template is not None:
        try:
            ChatTemplate(template, special)
        except TemplateError as error:
            raise NotConvertible(
                f"The chat template of {files.id} cannot be read: {error}."
            ) from error
    return {
        "context_window": context_window(model.config, tokenizer),
        "chat_template": template,
        "special_tokens": special,
        "generation": _generation(files, model.generation_config),
    }


def _generation(files: ModelFiles, own: GenerationConfig | None) -> dict[str, Any]:
    own = own or GenerationConfig()  # type: ignore[no-untyped-call]
    unsupported = [
        f"{name}={getattr(own, name)}"
        for name, neutral in _UNSUPPORTED.items()
        if getattr(own, name, None) not in neutral
    ]
    if unsupported:
        raise NotConvertible(
            f"{files.id} asks for {', '.join(unsupported)}, which OpenVINO GenAI does not have."
        )
    names = (
        "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty",
        "max_new_tokens", "num_beams",
    )  # fmt: skip
    return {name: getattr(own, name, None) for name in names} | {
        "eos_token_ids": _as_list(own.eos_token_id),
        "stop_strings": _as_list(own.stop_strings),
    }


def _as_list(value: object) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _convert(files: ModelFiles, model: PreTrainedModel) -> ov.Model:
    """The stateful graph, weights in float32. They are the torch model's own memory."""
    try:
        with _quiet():
            inputs = _sample_inputs(model)
            exporter = OpenVINOExporter()  # type: ignore[no-untyped-call]
            exported = exporter.export(model, inputs, config=OpenVINOConfig(dynamic=True))
    except Exception as error:
        raise NotConvertible(
            f"{files.id} ({type(model).__name__}) does not export to OpenVINO: {_line(error)}"
        ) from error
    graph: ov.Model = exported.program
    return graph


def _sample_inputs(model: PreTrainedModel) -> dict[str, Any]:
    """Four tokens after five that are in the cache, in two rows: every axis that varies differs."""
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.arange(18).reshape(2, 9) % vocabulary
    with torch.no_grad():
        past = model(ids[:, :5], use_cache=True).past_key_values
    if past is None:
        raise ValueError("the model has no cache of keys and values")
    return {
        "input_ids": ids[:, 5:],
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.arange(5, 9).expand(2, -1),
        "past_key_values": past,
    }


def _write_graph(graph: ov.Model, precision: Precision, folder: Path) -> None:
    if precision == "int8":
        import nncf  # takes seconds, and only int8 needs it

        # Its progress bar would end up in the output of a command.
        with _quiet(), redirect_stdout(sys.stderr):
            graph = nncf.compress_weights(graph.clone(), mode=nncf.CompressWeightsMode.INT8_ASYM)
    # bfloat16 checkpoints lose nothing in float16: its mantissa is longer, and weights are small.
    ov.save_model(graph, folder / GRAPH, compress_to_fp16=precision != "f32")


def _prompts(tokenizer: Tokenizer, window: int) -> list[list[int]]:
    """Fixed texts as token ids, of the lengths in `PARITY_PROMPTS` as far as the window goes.

    The longer ones begin with all of the shorter ones, so their prefixes are found in the cache.
    """
    texts = "\n\n".join(fixed_texts().passages)
    ids = tokenizer.encode(texts, add_special_tokens=True).ids
    room = window - PARITY_TOKENS
    lengths = sorted({min(length, room, len(ids)) for length in PARITY_PROMPTS})
    return [ids[:length] for length in lengths if length > 0]


@dataclass(frozen=True, slots=True)
class _Answer:
    """Tokens that the pipeline wrote, and the log-probability that it gave each."""

    prompt_ids: list[int]
    tokens: list[int]
    logprobs: list[float]


def _compare(
    files: ModelFiles,
    folder: Path,
    precision: Precision,
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    cpu: Cpu,
) -> tuple[dict[str, float], int]:
    """Figures of the converted model against torch's, and the bytes of a block of its KV cache."""
    blocks = sum(len(ids) + PARITY_TOKENS for ids in prompts) // BLOCK_TOKENS + MAX_RUNNING
    try:
        pipeline = open_pipeline(folder, precision, blocks=blocks, threads=cpu.threads)
        # All at once, and once more, now with every prefix in the cache.
        answers = [answer for _ in range(2) for answer in _write(pipeline, prompts)]
        block_bytes = pipeline.get_metrics().cache_size_in_bytes // blocks
    except RuntimeError as error:
        raise NotConvertible(
            f"OpenVINO GenAI refuses the graph of {files.id} ({type(model).__name__}): "
            f"{_line(error)}"
        ) from error
    return _agreement(model, answers), block_bytes


def _write(pipeline: ContinuousBatchingPipeline, prompts: Sequence[list[int]]) -> list[_Answer]:
    """Greedy answers of `PARITY_TOKENS` tokens, whatever they are."""
    config = PipelineConfig()
    config.max_new_tokens = PARITY_TOKENS
    config.ignore_eos = True
    config.logprobs = 1
    handles = [
        pipeline.add_request(at, token_tensor(ids), config) for at, ids in enumerate(prompts)
    ]
    while pipeline.has_non_finished_requests():
        pipeline.step()
    outputs = [handle.read_all()[0] for handle in handles]
    return [
        _Answer(ids, list(output.generated_ids), list(output.generated_log_probs))
        for ids, output in zip(prompts, outputs, strict=True)
    ]


def _agreement(model: PreTrainedModel, answers: Sequence[_Answer]) -> dict[str, float]:
    """How the tokens that were written, and their log-probabilities, compare with torch's.

    `agreement`: the share that torch would have chosen, too. `regret`: how much more likely torch
    finds its own choice, mean over all tokens, in nats.
    """
    agreed, regrets, errors = [], [], []
    reference: dict[tuple[int, ...], torch.Tensor] = {}
    for answer in answers:
        ids = (*answer.prompt_ids, *answer.tokens)
        if ids not in reference:  # the second time mostly writes what the first did
            reference[ids] = _logprobs(model, ids, len(answer.tokens))
        logprobs = reference[ids]
        own = logprobs.gather(1, torch.tensor(answer.tokens)[:, None])[:, 0]
        regret = logprobs.amax(1) - own
        agreed += (regret == 0).tolist()
        regrets += regret.tolist()
        errors += (own - torch.tensor(answer.logprobs)).abs().tolist()
    figures = {
        "agreement": sum(agreed) / len(agreed),
        "regret": sum(regrets) / len(regrets),
        "mean logprob error": sum(errors) / len(errors),
        "max logprob error": max(errors),
    }
    return {name: round(value, 6) for name, value in figures.items()} | {"tokens": len(agreed)}


@torch.inference_mode()
def _logprobs(model: PreTrainedModel, ids: Sequence[int], last: int) -> torch.Tensor:
    """Log-probabilities of what stands at the last positions: float32 (last, vocabulary)."""
    logits = model(torch.tensor([ids])).logits[0, -last - 1 : -1]
    return torch.log_softmax(logits.float(), -1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporter and quantiser talk about their own insides; parity says whether it matters."""
    # The exporter's own logger is called after its file, outside of transformers' tree.
    loggers = [
        logging.getLogger(name) for name in ("nncf", "transformers", exporter_dynamo.__file__)
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _line(error: Exception) -> str:
    """The last line of an error that says something: OpenVINO begins with where in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
