"""What reranking fewer tokens costs: python -m eval.shortcuts FOLDER... [--model FOLDER]

The reference is the cross-encoder's fp32 pass over 20 whole candidates. Each shortcut is fitted on
one half of the held-out questions and reported on the other: the share of questions whose best n
hits stay the same, in order and as a set, nDCG@10, and the tokens computed as a share of the full
pass's. Logits are computed once and kept in eval/cache.
"""

import argparse
import hashlib
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import ir_measures
import numpy as np
import openvino as ov
import torch
from ir_measures import nDCG
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoModelForSequenceClassification

from eval.candidates import DEPTH, Question, candidates, load
from eval.collection import CACHE
from eval.datasets import Dataset
from eval.train_cross_encoder import MODEL, held_out
from eval.vectors import RememberingEmbedder
from rag.embed import load_embedder
from rag.models.cpu import Cpu
from rag.models.engine import Engines, open_cross_encoder
from rag.models.load import resolve
from rag.models.tokens import load_tokenizer, pad, plan_batches, tokenize_pairs
from rag.rerank import CrossEncoderReranker, idf, max_similarities, rerank
from rag.settings import PROFILES
from rag.types import Chunk, Hit, Scores

WINDOWS = (48,)  # words; 96 leave 0.79 of the tokens: a cascade over them saves nothing
TITLE_WORDS = 20  # a longer first line is text
BATCH_TOKENS = 1024  # fastest on one core of those tried
MAX_TOKENS = 512
BLOCK = 4  # candidates scored before looking again
MARGINS = (*np.linspace(-3, 3, 31).tolist(), *np.linspace(3.5, 12, 18).tolist())  # logits
PROMISED = 0.99  # share of questions whose best hits must stay
BUDGETS = (0, 2000, 1000, 500)  # ms
BUDGETED = 30  # questions
MAX_SIM_SCALE = 20.0  # brings cosines to the spread of logits, for the margins tried
FIRST_STAGE_COST = 1 / 8  # MiniLM's FLOPs per token over those of bge-reranker-base

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scored:
    """A question's candidates, best fused score first, with all that shortcuts may look at.

    `logits`, `tokens`: the full pass's, (n,). `windows[w]`, `window_tokens[w]`: those of a pass
    over the best w words. `states`: the [CLS] vectors after each layer, (layers, n, dim).
    """

    question: Question
    logits: Floats
    tokens: Floats
    states: Floats
    windows: dict[int, Floats]
    window_tokens: dict[int, Floats]
    max_sim: Floats


class Reference:
    """The cross-encoder in fp32 on OpenVINO, with its hidden states."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.tokenizer = load_tokenizer(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        self.config = model.config
        example = torch.ones((2, 8), dtype=torch.long)
        names = ("input_ids", "attention_mask", "token_type_ids")
        converted = ov.convert_model(
            _WithStates(model),
            example_input=dict.fromkeys(names, example),
            input=[(name, ov.PartialShape([-1, -1]), ov.Type.i64) for name in names],
        )
        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        self.compiled = ov.Core().compile_model(converted, "CPU", hints)

    def score(self, question: str, passages: Sequence[str]) -> tuple[Floats, Floats, Floats]:
        """(logits (n,), tokens of each pair (n,), [CLS] vectors (layers, n, dim))."""
        pairs = tokenize_pairs(self.tokenizer, question, passages, MAX_TOKENS)
        lengths = [len(pair) for pair in pairs]
        logits = np.empty(len(pairs), dtype=np.float32)
        shape = (self.config.num_hidden_layers, len(pairs), self.config.hidden_size)
        states = np.empty(shape, dtype=np.float16)
        for batch in plan_batches(lengths, BATCH_TOKENS):
            output = self.compiled(
                {
                    "input_ids": pad([pairs[i].ids for i in batch], self.config.pad_token_id),
                    "attention_mask": pad([pairs[i].attention_mask for i in batch], 0),
                    "token_type_ids": pad([pairs[i].type_ids for i in batch], 0),
                }
            )
            logits[batch], states[:, batch] = output[0], output[1]
        return logits, np.array(lengths, dtype=np.float32), states


class _WithStates(torch.nn.Module):
    """Logits and the [CLS] vector after each layer."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            output_hidden_states=True,
        )
        states = torch.stack([hidden[:, 0] for hidden in output.hidden_states[1:]])
        return output.logits[:, 0], states


def best_window(question: str, text: str, width: int, rare: Callable[[str], float]) -> str:
    """The title line and the `width` words of the rest that hold most of the question's weight.

    A question's word counts once, by how rare it is; then the one with more matches, then the
    first window wins. Prefix sums per word: O(words of the question x words of the text).
    """
    title, newline, body = text.partition("\n")
    if not newline or len(WORD.findall(title)) > TITLE_WORDS:
        title, newline, body = "", "", text
    spans = [match.span() for match in WORD.finditer(body)]
    if len(spans) <= width:
        return text
    words = np.array([body[start:end].lower() for start, end in spans])
    starts = len(spans) - width + 1
    weight, matches = np.zeros(starts), np.zeros(starts)
    for term in sorted(terms(question)):
        before = np.concatenate([[0], np.cumsum(words == term)])
        inside = before[width:] - before[:starts]
        weight += rare(term) * (inside > 0)
        matches += rare(term) * inside
    best = int(np.argmax(weight + 1e-3 * matches))
    return title + newline + body[spans[best][0] : spans[best + width - 1][1]]


WORD = re.compile(r"\w+")


def terms(text: str) -> set[str]:
    """The lower-cased words of a text."""
    return {word.lower() for word in WORD.findall(text)}


def rarity(passages: Sequence[str]) -> Callable[[str], float]:
    """IDF of words among the candidates themselves: the one collection that is at hand."""
    counts = Counter(term for passage in passages for term in terms(passage))
    return lambda term: float(idf([counts[term]], len(passages))[0])


class LateInteraction:
    """IDF-weighted MaxSim of the starter embedder, with the IDF of the candidates."""

    def __init__(self) -> None:
        self._embedder = RememberingEmbedder(load_embedder(PROFILES["starter"].embedder))

    def score(self, question: str, passages: Sequence[str]) -> Floats:
        """Relevance (n,)."""
        asked, *read = self._embedder.token_vectors([question, *passages])
        counts = Counter(int(token) for r in read for token in set(r.ids.tolist()))
        weights = idf([counts[int(token)] for token in asked.ids], len(passages))
        weights /= weights.sum()
        return np.array([max_similarities(asked, r) @ weights for r in read], dtype=np.float32)


def scored(
    dataset: Dataset, model: Path, most: int, rng: random.Random, threads: int
) -> list[Scored]:
    """Up to `most` held-out questions of a collection with every pass over their candidates."""
    questions = [q for q in candidates(dataset) if held_out(dataset.name, q.id)]
    questions = rng.sample(questions, min(most, len(questions)))
    weights = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()[:12]
    folder = CACHE / f"shortcuts-{weights}" / dataset.name
    folder.mkdir(parents=True, exist_ok=True)
    reference, late = Reference(model, threads), LateInteraction()
    return [
        _scored(folder, question, reference, late) for question in track(questions, dataset.name)
    ]


def _scored(
    folder: Path, question: Question, reference: Reference, late: LateInteraction
) -> Scored:
    path = folder / f"{hashlib.sha256(question.id.encode()).hexdigest()[:16]}.npz"
    if not path.exists():
        np.savez(path, **_passes(question, reference, late))
    stored = np.load(path)
    return Scored(
        question,
        stored["logits"],
        stored["tokens"],
        stored["states"].astype(np.float32),
        {width: stored[f"window{width}"] for width in WINDOWS},
        {width: stored[f"tokens{width}"] for width in WINDOWS},
        stored["max_sim"],
    )


def _passes(question: Question, reference: Reference, late: LateInteraction) -> dict[str, Floats]:
    texts = [candidate.text for candidate in question.candidates]
    logits, tokens, states = reference.score(question.text, texts)
    kept = {"logits": logits, "tokens": tokens, "states": states}
    rare = rarity(texts)
    for width in WINDOWS:
        cut = [best_window(question.text, text, width, rare) for text in texts]
        kept[f"window{width}"], kept[f"tokens{width}"] = logits.copy(), tokens.copy()
        changed = [i for i, text in enumerate(texts) if cut[i] != text]
        if changed:
            again = reference.score(question.text, [cut[i] for i in changed])
            kept[f"window{width}"][changed], kept[f"tokens{width}"][changed] = again[:2]
    kept["max_sim"] = late.score(question.text, texts)
    return kept


Predict = Callable[[Scored], Floats]
"""What a cheap look says the logits are, (n,)."""
Cost = Callable[[Scored], tuple[Floats, Floats]]
"""Tokens of the cheap look and of the pass that then gives the logit, each (n,)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Candidates best first, those that were never scored last; `tokens` were computed."""

    order: list[int]
    tokens: float


Shortcut = Callable[[Scored], Outcome]


def ranked(scores: Floats, among: Sequence[int]) -> list[int]:
    """The positions in `among` in the order of their scores; ties in fused order."""
    return sorted(among, key=lambda i: (-scores[i], i))


def whole(one: Scored) -> Outcome:
    """The full pass."""
    return Outcome(ranked(one.logits, range(len(one.logits))), float(one.tokens.sum()))


def first(depth: int) -> Shortcut:
    """The first `depth` of the fused order and no more."""

    def shortcut(one: Scored) -> Outcome:
        rest = list(range(len(one.logits)))[depth:]
        best = ranked(one.logits, range(min(depth, len(one.logits))))
        return Outcome(best + rest, float(one.tokens[:depth].sum()))

    return shortcut


def oracle(n: int) -> Shortcut:
    """Scores the best n and nothing else: no shortcut with exact scores computes less."""

    def shortcut(one: Scored) -> Outcome:
        order = whole(one).order
        return Outcome(order, float(one.tokens[order[:n]].sum()))

    return shortcut


def only_windows(width: int) -> Shortcut:
    """Window logits in place of the full pass's."""

    def shortcut(one: Scored) -> Outcome:
        order = ranked(one.windows[width], range(len(one.logits)))
        return Outcome(order, float(one.window_tokens[width].sum()))

    return shortcut


def stopping(predict: Predict, cost: Cost, margin: float, n: int, block: int) -> Shortcut:
    """Blocks in the order of the prediction, until no prediction plus `margin` reaches the n-th.

    The mean error of the predictions so far, shrunk, corrects those still to come.
    """

    def shortcut(one: Scored) -> Outcome:
        predicted = predict(one)
        look, full = cost(one)
        left = ranked(predicted, range(len(predicted)))
        done, left = left[: max(n, block)], left[max(n, block) :]
        while left:
            errors = one.logits[done] - predicted[done]
            bias = float(errors.sum()) / (len(done) + 2)
            bar = sorted(one.logits[done])[-n]
            left = [i for i in left if predicted[i] + bias + margin > bar]
            done, left = done + left[:block], left[block:]
        rest = [i for i in range(len(predicted)) if i not in set(done)]
        tokens = float(look.sum() + full[done].sum())
        return Outcome(ranked(one.logits, done) + rest, tokens)

    return shortcut


def features(one: Scored) -> Floats:
    """What retrieval knows of each candidate, (n, 8)."""
    found = one.question.candidates
    fused = np.array([c.fused for c in found])
    dense = np.array([c.dense or 0.0 for c in found])
    bm25 = np.array([c.bm25 or 0.0 for c in found])
    rank = np.arange(len(found))
    missing = np.array([[c.dense is None, c.bm25 is None] for c in found], dtype=float)
    columns = [fused, dense, bm25, bm25 / max(bm25.max(), 1e-9), rank, np.log1p(rank)]
    return np.concatenate([np.stack(columns, axis=1), missing], axis=1).astype(np.float32)


Look = Callable[[Scored], Floats]


def ridge(look: Look, fitted_on: Sequence[Scored], penalty: float = 10.0) -> Predict:
    """Least squares from standardised numbers to logits."""
    x = np.concatenate([look(one) for one in fitted_on])
    y = np.concatenate([one.logits for one in fitted_on])
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-6
    z = (x - mean) / spread
    weights = np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ (y - y.mean()))
    known: dict[str, Floats] = {}

    def predict(one: Scored) -> Floats:
        if one.question.id not in known:
            z = (look(one) - mean) / spread
            known[one.question.id] = (z @ weights + y.mean()).astype(np.float32)
        return known[one.question.id]

    return predict


@dataclass(frozen=True, slots=True)
class Attempt:
    """A cheap look and what it costs."""

    name: str
    look: Look
    cost: Cost


def _free(one: Scored) -> tuple[Floats, Floats]:
    return np.zeros_like(one.tokens), one.tokens


FUSED = Attempt("fused order", features, _free)


def attempts() -> Iterator[Attempt]:
    """Everything that might tell early which candidates cannot enter."""

    def late(one: Scored) -> tuple[Floats, Floats]:
        return one.tokens * FIRST_STAGE_COST, one.tokens

    def with_late(one: Scored) -> Floats:
        return np.concatenate([features(one), one.max_sim[:, None]], axis=1)

    yield FUSED
    yield Attempt("MaxSim, vectors at hand", with_late, _free)
    yield Attempt("MaxSim, vectors computed", with_late, late)
    for width in WINDOWS:
        yield Attempt(f"windows of {width} words", *_window_look(width))
    for layer in (1, 2, 3, 4, 5):
        yield Attempt(f"after layer {layer} of 6", *_layer_look(layer))


def _window_look(width: int) -> tuple[Look, Cost]:
    def look(one: Scored) -> Floats:
        return np.concatenate([features(one), one.windows[width][:, None]], axis=1)

    def cost(one: Scored) -> tuple[Floats, Floats]:
        again = np.where(one.window_tokens[width] < one.tokens, one.tokens, 0)
        return one.window_tokens[width], again

    return look, cost


def _layer_look(layer: int) -> tuple[Look, Cost]:
    def look(one: Scored) -> Floats:
        return np.concatenate([features(one), one.states[layer - 1]], axis=1)

    def cost(one: Scored) -> tuple[Floats, Floats]:
        share = layer / len(one.states)
        return one.tokens * share, one.tokens * (1 - share)

    return look, cost


@dataclass(frozen=True, slots=True)
class Report:
    """Shares of the questions, and tokens as a share of the full pass's."""

    same_order: float
    same_set: float
    tokens: float


def report(shortcut: Shortcut, questions: Sequence[Scored], n: int) -> Report:
    """How often the best n stay, in order and as a set."""
    order, as_set, computed, full = 0, 0, 0.0, 0.0
    for one in questions:
        expected, outcome = whole(one), shortcut(one)
        order += outcome.order[:n] == expected.order[:n]
        as_set += set(outcome.order[:n]) == set(expected.order[:n])
        computed += outcome.tokens
        full += expected.tokens
    return Report(order / len(questions), as_set / len(questions), computed / full)


def cheapest(
    make: Callable[[float], Shortcut],
    settings: Sequence[float],
    fitted_on: Sequence[Scored],
    n: int,
) -> Shortcut:
    """The first setting, cheapest first, that keeps the promise on the calibration half."""
    for setting in settings:
        if report(make(setting), fitted_on, n).same_order >= PROMISED:
            return make(setting)
    return whole


def at_half(
    make: Callable[[float], Shortcut],
    settings: Sequence[float],
    fitted_on: Sequence[Scored],
    n: int,
) -> Shortcut:
    """The last setting, cheapest first, that computes at most half of the tokens."""
    halves = [s for s in settings if report(make(s), fitted_on, n).tokens <= 0.5]
    return make(halves[-1] if halves else settings[0])


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    rng = random.Random(options.seed)
    fitted_on: dict[str, list[Scored]] = {}
    reported_on: dict[str, list[Scored]] = {}
    datasets = [load(folder) for folder in options.folders]
    for dataset in datasets:
        questions = scored(dataset, options.reference, options.questions, rng, options.threads)
        half = len(questions) // 2
        fitted_on[dataset.name], reported_on[dataset.name] = questions[:half], questions[half:]
    console = Console(width=120)
    for n in options.best:
        fitted = list(shortcuts(_together(fitted_on), n, list(attempts())))
        console.print(overview(fitted, reported_on, datasets, n))
        console.print(by_set(fitted, reported_on, n))
    console.print(padding(reported_on))
    console.print(budgets(options.reference, _together(reported_on)[:BUDGETED], options.threads))
    # A second reranker with other mistakes: MaxSim in the place of the logits.
    fitted_on, reported_on = _by_max_sim(fitted_on), _by_max_sim(reported_on)
    for n in options.best:
        console.print("MaxSim as the reference")
        fitted = list(shortcuts(_together(fitted_on), n, [FUSED]))
        console.print(overview(fitted, reported_on, datasets, n))


def _by_max_sim(sets: Mapping[str, list[Scored]]) -> dict[str, list[Scored]]:
    return {
        name: [replace(q, logits=q.max_sim * MAX_SIM_SCALE) for q in questions]
        for name, questions in sets.items()
    }


Fitted = tuple[str, Shortcut, Shortcut]
"""Its name, and the shortcut at the promise and at half of the tokens."""


def shortcuts(fitted_on: Sequence[Scored], n: int, tried: Sequence[Attempt]) -> Iterator[Fitted]:
    """Every shortcut, its setting chosen on `fitted_on`."""
    depths = range(n, DEPTH + 1)
    yield "oracle", oracle(n), oracle(n)
    yield (
        "first m of the fused order",
        cheapest(first, depths, fitted_on, n),
        at_half(first, depths, fitted_on, n),
    )
    for attempt in tried:
        predict = ridge(attempt.look, fitted_on)
        make = partial(_stop, predict, attempt.cost, n)
        yield (
            f"stop: {attempt.name}",
            cheapest(make, MARGINS, fitted_on, n),
            at_half(make, MARGINS, fitted_on, n),
        )
    if tried == [FUSED]:
        return
    for width in WINDOWS:
        yield f"only windows of {width} words", only_windows(width), only_windows(width)


def _stop(predict: Predict, cost: Cost, n: int, margin: float) -> Shortcut:
    return stopping(predict, cost, margin, n, BLOCK)


def overview(
    fitted: Sequence[Fitted],
    reported_on: Mapping[str, list[Scored]],
    datasets: Sequence[Dataset],
    n: int,
) -> Table:
    """Every shortcut on the reported halves of all collections together."""
    shown = _together(reported_on)
    reference, fused = (ndcg(shortcut, reported_on, datasets) for shortcut in (whole, first(0)))
    quality = f"nDCG@10 {reference:.3f}, of the fused order {fused:.3f}"
    title = f"{len(shown)} questions that fitted nothing; {quality}"
    table = Table(
        f"best {n} of {DEPTH}", "same order", "same set", "tokens", "nDCG@10 lost",
        "order at 1/2", "tokens", title=title,
    )  # fmt: skip
    for name, promised, half in fitted:
        kept, halved = report(promised, shown, n), report(half, shown, n)
        lost, lost_half = (
            reference - ndcg(shortcut, reported_on, datasets) for shortcut in (promised, half)
        )
        table.add_row(
            name, f"{kept.same_order:.1%}", f"{kept.same_set:.1%}", f"{kept.tokens:.2f}",
            f"{lost:.4f}", f"{halved.same_order:.1%}", f"{halved.tokens:.2f}",
            f"{lost_half:.4f}",
        )  # fmt: skip
    return table


def by_set(fitted: Sequence[Fitted], reported_on: Mapping[str, list[Scored]], n: int) -> Table:
    """The same settings, collection by collection."""
    table = Table(f"best {n}", *(f"{name} ({len(q)})" for name, q in reported_on.items()))
    for name, promised, _ in fitted:
        reports = [report(promised, questions, n) for questions in reported_on.values()]
        table.add_row(name, *(f"{r.same_order:.1%} at {r.tokens:.2f}" for r in reports))
    return table


def padding(reported_on: Mapping[str, list[Scored]]) -> Table:
    """Tokens computed with their padding over those without, by how batches are planned."""
    table = Table("padded / bare tokens", *reported_on)
    for budget in (8192, 4096, 2048, 1024, 512):
        table.add_row(
            f"batches of {budget} tokens",
            *(f"{_padded(questions, budget):.3f}" for questions in reported_on.values()),
        )
    return table


def _padded(questions: Sequence[Scored], budget: int) -> float:
    padded = 0
    for one in questions:
        lengths = [int(length) for length in one.tokens]
        padded += sum(len(batch) * lengths[batch[0]] for batch in plan_batches(lengths, budget))
    return padded / sum(float(one.tokens.sum()) for one in questions)


def budgets(folder: Path, questions: Sequence[Scored], threads: int) -> Table:
    """What `rerank_budget_ms` keeps to, through the product's own engine and `rerank`."""
    engines = Engines("torch", device="cpu", cpu=Cpu(threads=threads))
    model = open_cross_encoder(resolve(str(folder)), engines)
    table = Table("budget, ms", "candidates scored, mean", "ms, median", "ms, 95th of 100")
    for budget in BUDGETS:
        reranker = CrossEncoderReranker("reference", model)
        taken, depths = [], []
        for one in questions:
            start = time.perf_counter()
            hits, _ = rerank(
                one.question.text, _hits(one), reranker, DEPTH, _no_counts, budget_ms=budget
            )
            taken.append(1000 * (time.perf_counter() - start))
            depths.append(sum(hit.scores.rerank is not None for hit in hits))
        middle, slow = np.percentile(taken, [50, 95])
        name = str(budget) if budget else "none"
        table.add_row(name, f"{np.mean(depths):.1f}", f"{middle:.0f}", f"{slow:.0f}")
    model.close()
    return table


def _hits(one: Scored) -> list[Hit]:
    return [
        Hit(
            c.point_id, Chunk(c.document_id, 1, 0, "", c.text, 0, len(c.text), 0), c.fused, Scores()
        )
        for c in one.question.candidates
    ]


def _no_counts(_: Sequence[int]) -> tuple[dict[int, int], int]:
    return {}, 0


def ndcg(
    shortcut: Shortcut, questions: Mapping[str, list[Scored]], datasets: Sequence[Dataset]
) -> float:
    """nDCG@10, the mean over all questions of all collections."""
    values: list[float] = []
    for dataset in datasets:
        run = {one.question.id: _documents(one, shortcut) for one in questions[dataset.name]}
        qrels = {query: dataset.qrels[query] for query in run}
        values += [measured.value for measured in ir_measures.iter_calc([nDCG @ 10], qrels, run)]
    return float(np.mean(values))


def _documents(one: Scored, shortcut: Shortcut) -> dict[str, float]:
    ranks: dict[str, float] = {}
    for rank, position in enumerate(shortcut(one).order):
        ranks.setdefault(one.question.candidates[position].document_id, -float(rank))
    return ranks


def _together(sets: Mapping[str, list[Scored]]) -> list[Scored]:
    return [one for questions in sets.values() for one in questions]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="collections in the BEIR layout")
    parser.add_argument("--reference", type=Path, default=MODEL, help="a cross-encoder's folder")
    parser.add_argument("--questions", type=int, default=120, help="of each collection at most")
    parser.add_argument("--best", type=int, nargs="+", default=[1, 5, 10])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
