"""How much of what the machine can do our engines use.

Operations are those of the tokens that were asked for, without padding. Per layer and token of n:
linear 2 (4 d^2 + 2 d f), attention 4 n d; d is the hidden size and f the feed-forward size.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from eval.perf import generate, peers
from eval.perf.bench import UNCHECKED, Bench, Side, names, variants
from eval.perf.figures import Figure, Section
from eval.perf.workers import Worker

MACHINE = "the machine"
MOST_TOKENS = 512
REPEATS = 5


def measure(bench: Bench) -> Section:
    """Peaks first, then the encoders against matrix products and decoding against memory."""
    section = Section("limits", names(variants("embed", {})))
    gemm, bandwidth = _machine(bench, section)
    if not (gemm and bandwidth):
        return section
    peaks = {
        precision: max(rate for name, rate in gemm.items() if name.endswith(precision))
        for precision in ("bf16", "int8")
    }
    _embed(bench, section, peaks)
    _rerank(bench, section, peaks)
    _decode(bench, section, max(bandwidth.values()))
    return section


def operations(config: dict[str, Any], lengths: Sequence[int]) -> float:
    """Operations of an encoder over texts of these many tokens, embeddings left out."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    linear = 2 * (4 * hidden**2 + 2 * hidden * wide)
    each = sum(n * (linear + 4 * n * hidden) for n in lengths)
    return float(config["num_hidden_layers"] * each)


def weights_read(config: dict[str, Any]) -> int:
    """Weights that one decoding step reads: all layers and the output matrix (of a Qwen2)."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    layer = 2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * wide
    return int(config["num_hidden_layers"] * layer + config["vocab_size"] * hidden)


def _machine(bench: Bench, section: Section) -> tuple[dict[str, float], dict[str, float]]:
    """(operations a second by engine and precision, bytes a second), empty where it failed."""
    size, mebibytes = bench.sizes.gemm, bench.sizes.mebibytes
    with bench.opened(section, [Side(MACHINE, peers.OURS, "limits")]) as workers:
        products = bench.each(
            section, workers, "matrix product", lambda w: w.call("gemm", size=size, repeats=REPEATS)
        )
        moved = bench.each(
            section, workers, "memory",
            lambda w: w.call("bandwidth", mebibytes=mebibytes, repeats=REPEATS),
        )  # fmt: skip
    gemm: dict[str, float] = products.get(MACHINE, {})
    bandwidth: dict[str, float] = moved.get(MACHINE, {})
    section.figures += [
        Figure("matrix product", name, "TFLOP/s", MACHINE, (rate / 1e12,), compared=False)
        for name, rate in gemm.items()
    ]
    section.figures += [
        Figure("memory", name, "GB/s", MACHINE, (rate / 1e9,), compared=False)
        for name, rate in bandwidth.items()
    ]
    return gemm, bandwidth


def _embed(bench: Bench, section: Section, peaks: dict[str, float]) -> None:
    texts = list(bench.texts.passages[: bench.sizes.passages])
    lengths = _lengths(bench.embedder, texts)
    work = operations(_config(bench.embedder), lengths)
    sides = variants("embed", UNCHECKED | {"RAG_EMBEDDER": str(bench.embedder)})

    def encode(_: str, worker: Worker, __: int) -> float:
        return work / float(worker.call("encode", texts=texts)["seconds"])

    with bench.opened(section, sides) as workers:
        bench.each(section, workers, "warm-up", lambda w: w.call("encode", texts=texts[:32]))
        _fractions(section, "embed", bench.alternate(section, workers, "embed", encode), peaks)


def _rerank(bench: Bench, section: Section, peaks: dict[str, float]) -> None:
    config = _config(bench.reranker)
    sides = variants("rerank", UNCHECKED | {"RAG_RERANKER": str(bench.reranker)})

    def score(_: str, worker: Worker, number: int) -> float:
        asked = bench.asked(number)
        pairs = [(question, passage) for question, passages in asked for passage in passages]
        work = operations(config, _lengths(bench.reranker, pairs))
        return work / float(sum(worker.call("score", asked=asked)["seconds"]))

    warm = bench.asked(bench.rounds)[:1]
    with bench.opened(section, sides) as workers:
        bench.each(section, workers, "warm-up", lambda w: w.call("score", asked=warm))
        _fractions(section, "rerank", bench.alternate(section, workers, "rerank", score), peaks)


def _fractions(
    section: Section, workload: str, found: dict[str, list[float]], peaks: dict[str, float]
) -> None:
    for side, rates in found.items():
        section.figures += [
            Figure(workload, f"of the {name} peak", "%", side,
                   tuple(100 * rate / peak for rate in rates), compared=False)
            for name, peak in peaks.items()
        ]  # fmt: skip


def _decode(bench: Bench, section: Section, bandwidth: float) -> None:
    """One request's steps after the first token, each of which reads every weight once."""
    weights = weights_read(_config(bench.generator))
    length = bench.sizes.new_tokens

    def decode(_: str, worker: Worker, number: int) -> float:
        wanted = generate.request(bench, number + 1, "Who?", length)
        done = worker.call("one", request=wanted)
        return float((done["tokens"] - 1) / (done["seconds"] - done["first"]))

    sides = variants("generate", UNCHECKED | {"RAG_GENERATOR": str(bench.generator)})
    with bench.opened(section, sides) as workers:
        short = generate.request(bench, 0, "Is it warm?", 4)
        bench.each(section, workers, "warm-up", lambda w: w.call("one", request=short))
        found = bench.alternate(section, workers, "decode", decode)
    for side, rates in found.items():
        section.figures += [
            Figure("decode", f"of the bandwidth, weights as {name}", "%", side,
                   tuple(100 * rate * weights * size / bandwidth for rate in rates),
                   compared=False)
            for name, size in (("bf16", 2), ("int8", 1))
        ]  # fmt: skip


def _lengths(model: Path, texts: Sequence[str] | Sequence[tuple[str, str]]) -> list[int]:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MOST_TOKENS)
    return [len(encoding) for encoding in tokenizer.encode_batch(list(texts))]


def _config(model: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((model / "config.json").read_text("utf-8"))
    return found
