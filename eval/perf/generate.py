"""Prompts to text: one request, the same prefix again, and many requests at once."""

from typing import Any

from eval.perf.bench import UNCHECKED, Bench, Side, names, variants
from eval.perf.figures import Figure, Section, fairness
from eval.perf.workers import Worker

PASSAGES = 5  # in a prompt
SYSTEM = "Answer the question from the passages."
PRECISIONS = {"transformers": "float32", "transformers bf16": "bfloat16"}


def measure(bench: Bench) -> Section:
    """A model of Qwen2.5-0.5B's shape."""
    ours = variants("generate", UNCHECKED | {"RAG_GENERATOR": str(bench.generator)})
    section = Section("generate", names(ours))
    theirs = [
        Side(name, "sentence_transformers", "generate",
             {"model": str(bench.generator), "dtype": dtype})
        for name, dtype in PRECISIONS.items()
    ]  # fmt: skip
    with bench.opened(section, [*ours, *theirs]) as workers:
        short = request(bench, 0, "Is it warm?", 4)
        bench.each(section, workers, "warm-up", lambda w: w.call("one", request=short))
        _one(bench, section, workers)
        _together(bench, section, workers)
    return section


def _one(bench: Bench, section: Section, workers: dict[str, Worker]) -> None:
    """Each round has passages of its own, so that only the second question finds them known."""
    length = bench.sizes.new_tokens

    def twice(_: str, worker: Worker, number: int) -> tuple[dict[str, float], dict[str, float]]:
        first = worker.call("one", request=request(bench, number + 1, "Who?", length))
        again = worker.call("one", request=request(bench, number + 1, "Where was it?", length))
        return first, again

    found = bench.alternate(section, workers, "one request", twice)
    for side, rounds in found.items():
        prompt = round(rounds[0][0]["prompt_tokens"])
        section.notes.append(f"{side}: prompts of about {prompt} tokens")
        for at, workload in enumerate(("one request", "the same passages again")):
            done = [both[at] for both in rounds]
            rates = tuple(one["tokens"] / one["seconds"] for one in done)
            section.figures += [
                Figure(workload, "time to first token", "s", side,
                       tuple(one["first"] for one in done), higher_is_better=False),
                Figure(workload, "throughput", "tokens/s", side, rates),
            ]  # fmt: skip


def _together(bench: Bench, section: Section, workers: dict[str, Worker]) -> None:
    """Ragstone takes them all at once; transformers in turn, or as one padded batch."""
    count = bench.sizes.together
    workload = f"{count} requests at once"
    ways = {
        (side, way): f"{side}, {label}" if label else side
        for side in workers
        for way, label in _ways(side, section)
    }
    found = bench.alternate(
        section,
        {label: workers[side] for (side, _), label in ways.items()},
        workload,
        lambda label, worker, number: worker.call(
            next(way for (_, way), name in ways.items() if name == label),
            requests=many(bench, number, count),
        ),
    )
    for label, rounds in found.items():
        rates = tuple(sum(r["tokens"]) / max(r["finished"]) for r in rounds)
        first = tuple(sum(r["first"]) / len(r["first"]) for r in rounds)
        unfair = tuple(fairness(r["finished"]) for r in rounds)
        section.figures += [
            Figure(workload, "throughput", "tokens/s", label, rates),
            Figure(workload, "mean time to first token", "s", label, first,
                   higher_is_better=False),
            Figure(workload, "slowest over mean", "", label, unfair, higher_is_better=False),
        ]  # fmt: skip


def _ways(side: str, section: Section) -> list[tuple[str, str]]:
    if side in section.ours:
        return [("concurrent", "")]
    return [("sequential", "in turn"), ("batch", "one batch")]


def request(
    bench: Bench, number: int, question: str, length: int, passages: int = PASSAGES
) -> dict[str, Any]:
    """A prompt over passages that no other number has; greedy."""
    texts = bench.texts.passages
    start = number * PASSAGES % (len(texts) - PASSAGES)
    context = "\n\n".join(texts[start : start + passages])
    return {
        "prompt": _chat(SYSTEM, f"{context}\n\nQuestion: {question}"),
        "max_new_tokens": length,
        "do_sample": False,
    }


def many(bench: Bench, number: int, count: int) -> list[dict[str, Any]]:
    """Requests of different lengths, every second one sampled."""
    found = []
    for n in range(count):
        length = max(2, bench.sizes.new_tokens * (1 + n % 4) // 4)
        one = request(bench, 100 + number * count + n, f"Number {n}?", length, 1 + n % PASSAGES)
        if n % 2:
            one |= {"do_sample": True, "temperature": 0.5 + 0.1 * n, "top_p": 0.9, "seed": n}
        found.append(one)
    return found


def _chat(system: str, user: str) -> str:
    """What the model's chat template makes of the two."""
    turns = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
    return f"{turns}<|im_start|>assistant\n"
