"""The three models on a GPU, beside what users run there: python -m eval.gpu

The sides take turns in one process on one card: sentence-transformers and transformers are
Ragstone's own dependencies, so that the peers need no environments of their own. Models have the
shapes of the default profile (see `eval.perf.models`). The result goes into eval/results; on a
machine without CUDA this says so and ends.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval.perf import models, report
from eval.perf.figures import Figure, Section, cosines, rank_agreement, same_nearest, top_overlap
from eval.perf.places import RESULTS, RETRIEVAL_SETS
from eval.perf.texts import Texts, corpus, load_texts
from rag.models.encoders import LocalCrossEncoder, LocalEncoder, Queueing
from rag.models.load import ModelFiles
from rag.models.presets import embedder_preset
from rag.models.stream import TokenStream
from rag.models.tokens import load_tokenizer
from rag.models.torch import TorchCrossEncoder, TorchEncoder
from rag.models.torch_lm import TorchCausalLM
from rag.sampling import Sampling
from rag.types import Message

PASSAGES = 8000
QUESTIONS = 64
CANDIDATES = 20
TOGETHER = (1, 16, 64)  # requests to the LM at once
NEW_TOKENS = 64
CONTEXT = 5  # passages in a prompt
SYSTEM = "Answer the question from the passages."

Vectors = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", choices=[[], *SECTIONS], help="all unless named")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every side")
    parser.add_argument("--texts", type=Path, default=RETRIEVAL_SETS, help="folder of BEIR sets")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the report goes")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)
    if not torch.cuda.is_available():
        console.print("No CUDA device is here: this benchmark is for a machine with one.")
        raise SystemExit(1)
    texts = load_texts(options.texts, PASSAGES, QUESTIONS, CANDIDATES)
    words = corpus(options.texts)
    gpu = torch.cuda.get_device_name()
    given = {"command": f"python -m eval.gpu --rounds {options.rounds}", "gpu": gpu}
    console.print(f"{gpu}; texts: {texts.origin}", markup=False)
    for name in options.sections or SECTIONS:
        section = SECTIONS[name](texts, words, options.rounds)
        section.notes.append(f"on one {gpu}")
        report.show(console, section)
        found = report.document(section, given)
        for path in report.write(found, section, options.results):
            console.print(f"wrote {path}", markup=False, soft_wrap=True)


def embedding(texts: Texts, words: Sequence[str], rounds: int) -> Section:
    """Passages a second, and how alike the vectors of all-MiniLM-L6-v2 are to float32's."""
    section = Section("gpu-embed", ["ours"])
    passages = list(texts.passages)
    _embed(section, "bge-small-en", models.bge_small(words), passages, rounds)
    vectors = _embed(section, "all-MiniLM-L6-v2", models.minilm(), passages, rounds)
    reference = vectors["sentence-transformers"]
    agreement = {
        "cosine with fp32, least": float(cosines(vectors["ours"], reference).min()),
        "same nearest passage as fp32": same_nearest(vectors["ours"][:2000], reference[:2000]),
    }
    section.figures += [
        Figure("all-MiniLM-L6-v2", measure, "", "ours", (value,), compared=False)
        for measure, value in agreement.items()
    ]
    return section


def _embed(
    section: Section, name: str, folder: Path, passages: list[str], rounds: int
) -> dict[str, Vectors]:
    preset = embedder_preset(name, folder)
    encoder = LocalEncoder(
        name,
        TorchEncoder(_files(folder), preset, device="cuda"),
        load_tokenizer(folder, lower_case=preset.lower_case),
        Queueing(),
    )
    plain = SentenceTransformer(str(folder), device="cuda")
    half = SentenceTransformer(str(folder), device="cuda", model_kwargs={"dtype": torch.bfloat16})
    longest = plain.max_seq_length or 512
    sides: dict[str, Callable[[], Vectors]] = {
        "ours": lambda: encoder.encode(passages, max_tokens=longest),
        "sentence-transformers": lambda: _encoded(plain, passages, 32),
        "sentence-transformers bf16": lambda: _encoded(half, passages, 32),
        "sentence-transformers bf16, 256 a batch": lambda: _encoded(half, passages, 256),
    }
    spent, vectors = _in_turns(sides, rounds)
    encoder.close()
    section.figures += [
        Figure(name, "throughput", "passages/s", side, tuple(len(passages) / s for s in seconds))
        for side, seconds in spent.items()
    ]
    return vectors


def reranking(texts: Texts, words: Sequence[str], rounds: int) -> Section:
    """Pairs a second, all questions one after the other and eight at a time."""
    section = Section("gpu-rerank", ["ours"])
    folder = models.bge_reranker(words)
    reranker = LocalCrossEncoder(
        "reranker",
        TorchCrossEncoder(_files(folder), device="cuda"),
        load_tokenizer(folder),
        Queueing(),
    )
    plain = CrossEncoder(str(folder), device="cuda")
    half = CrossEncoder(str(folder), device="cuda", model_kwargs={"dtype": torch.float16})
    asked = [(question, list(found)) for question, found in texts.asked[:QUESTIONS]]

    def together() -> Vectors:
        with ThreadPoolExecutor(8) as pool:
            return np.stack(list(pool.map(lambda one: reranker.logits(*one), asked)))

    sides: dict[str, Callable[[], Vectors]] = {
        "ours": lambda: np.stack([reranker.logits(*one) for one in asked]),
        "CrossEncoder": lambda: _predicted(plain, asked),
        "CrossEncoder fp16": lambda: _predicted(half, asked),
    }
    spent, scores = _in_turns(sides, rounds)
    at_once, _ = _in_turns({"ours": together}, rounds)
    reranker.close()
    pairs = QUESTIONS * CANDIDATES
    for workload, seconds_of in (("a question at a time", spent), ("eight at a time", at_once)):
        section.figures += [
            Figure(workload, "throughput", "pairs/s", side, tuple(pairs / s for s in seconds))
            for side, seconds in seconds_of.items()
        ]
    section.figures += [
        Figure(workload, measure, "", "ours", (value,), compared=False)
        for measure, value in (
            ("Kendall's tau with fp32", rank_agreement(scores["ours"], scores["CrossEncoder"])),
            ("the same 5 best as fp32", top_overlap(scores["ours"], scores["CrossEncoder"], 5)),
        )
    ]
    section.notes.append("random weights: all scores are all but equal, agreement is a lower bound")
    return section


def generation(texts: Texts, words: Sequence[str], rounds: int) -> Section:
    """Tokens a second of greedy requests that come at once."""
    section = Section("gpu-generate", ["ours"])
    folder = models.qwen(words)
    lm = TorchCausalLM(_files(folder), device="cuda", waiting=max(TOGETHER))
    theirs = _Transformers(folder)
    for count in TOGETHER:
        _generate(section, lm, theirs, [_prompt(texts, n) for n in range(count)], rounds)
    lm.close()
    return section


def _generate(
    section: Section,
    lm: TorchCausalLM,
    theirs: "_Transformers",
    prompts: list[list[Message]],
    rounds: int,
) -> None:
    sides: dict[str, Callable[[], list[str]]] = {
        "ours": lambda: _streamed(lm, prompts),
        "transformers bf16, one batch": lambda: theirs.batch(prompts),
    }
    if len(prompts) <= 16:  # one after the other takes that many times as long
        sides["transformers bf16, in turn"] = lambda: [theirs.batch([one])[0] for one in prompts]
    spent, answers = _in_turns(sides, rounds)
    workload = f"{len(prompts)} at once"
    tokens = len(prompts) * NEW_TOKENS
    section.figures += [
        Figure(workload, "throughput", "tokens/s", side, tuple(tokens / s for s in seconds))
        for side, seconds in spent.items()
    ]
    pairs = zip(answers["ours"], answers["transformers bf16, one batch"], strict=True)
    same = float(np.mean([_common(a, b) / max(len(b), 1) for a, b in pairs]))
    section.figures.append(
        Figure(workload, "share of an answer before it differs", "", "ours", (same,),
               compared=False)
    )  # fmt: skip


class _Transformers:
    """`generate`, one batch padded on the left."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        self.model.to("cuda").eval()

    def batch(self, prompts: Sequence[list[Message]]) -> list[str]:
        turns = [[{"role": m.role, "content": m.content} for m in prompt] for prompt in prompts]
        texts = self.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
        inputs = self.tokenizer(texts, return_tensors="pt", padding=True).to("cuda")
        made = self.model.generate(
            **inputs, do_sample=False, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS
        )
        new = made[:, inputs["input_ids"].shape[1] :]
        found: list[str] = self.tokenizer.batch_decode(
            new, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return found


def _streamed(lm: TorchCausalLM, prompts: Sequence[list[Message]]) -> list[str]:
    sampling = Sampling(do_sample=False, max_new_tokens=NEW_TOKENS)
    streams = [lm.stream(prompt, sampling) for prompt in prompts]
    with ThreadPoolExecutor(len(streams)) as pool:
        return list(pool.map(_read, streams))


def _read(stream: TokenStream) -> str:
    with stream:
        return "".join(stream)


def _prompt(texts: Texts, number: int) -> list[Message]:
    start = number * CONTEXT
    context = "\n\n".join(texts.passages[start : start + CONTEXT])
    return [
        Message("system", SYSTEM),
        Message("user", f"{context}\n\nQuestion: Number {number}?"),
    ]


def _in_turns(
    sides: dict[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each round by side, and what each side gave last. A round before is warm-up."""
    spent: dict[str, list[float]] = {side: [] for side in sides}
    given = {}
    for number in range(rounds + 1):
        for side, run in sides.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            given[side] = run()
            torch.cuda.synchronize()
            if number:
                spent[side].append(time.perf_counter() - start)
    return spent, given


def _encoded(model: SentenceTransformer, passages: list[str], batch: int) -> Vectors:
    vectors = model.encode(passages, batch_size=batch)
    return np.asarray(vectors, dtype=np.float32)


def _predicted(model: CrossEncoder, asked: Sequence[tuple[str, list[str]]]) -> Vectors:
    identity = torch.nn.Identity()  # the default sigmoid would round scores
    return np.stack([
        np.asarray(
            model.predict([(question, text) for text in found], activation_fn=identity),
            dtype=np.float32,
        )
        for question, found in asked
    ])  # fmt: skip


def _common(a: str, b: str) -> int:
    """How many characters the two have in common at their beginnings."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _files(folder: Path) -> ModelFiles:
    return ModelFiles(folder.name, folder, "")


SECTIONS: dict[str, Callable[[Texts, Sequence[str], int], Section]] = {
    "embed": embedding,
    "rerank": reranking,
    "generate": generation,
}


if __name__ == "__main__":
    main()
