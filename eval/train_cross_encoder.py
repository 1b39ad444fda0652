"""A small cross-encoder to experiment with: python -m eval.train_cross_encoder FOLDER...

Starts from all-MiniLM-L6-v2 and learns to put the relevant passage before the passages that hybrid
retrieval confuses it with. It is weak and never shipped: shortcuts are measured against its own
full pass, for which its logits only need to mean something. Half of each collection's questions,
and all of those of UNSEEN, are held out (`held_out`).
"""

import argparse
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    get_linear_schedule_with_warmup,
)

from eval.candidates import Candidate, Question, candidates, load
from eval.collection import CACHE
from rag.models.load import resolve
from rag.models.tokens import plan_batches
from rag.settings import PROFILES

UNSEEN = {"covidqa", "hotpotqa-100", "musique-100", "pubmedqa"}
MODEL = CACHE / "models" / "minilm-cross-encoder"
NEGATIVES = 3
GROUPS = 8  # questions in a step
MAX_TOKENS = 128
BATCH_TOKENS = 1024
LEARNING_RATE = 1.5e-4
SAVE_EVERY = 50  # steps


@dataclass(frozen=True, slots=True)
class Example:
    """A question, the passages that answer it, and those that only look like it."""

    question: str
    relevant: tuple[str, ...]
    others: tuple[str, ...]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    examples = [example for folder in options.folders for example in training_examples(folder)]
    print(f"{len(examples)} questions")
    base = resolve(PROFILES["starter"].embedder).path
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    # 12 of 22 million parameters: too few steps to learn words, and a third of the step's time.
    model.base_model.embeddings.requires_grad_(False)
    train(model, tokenizer, examples, options.steps, random.Random(options.seed))


def held_out(collection: str, question_id: str) -> bool:
    """Whether a question is kept for measuring: by a hash, so that no order matters."""
    digest = hashlib.sha256(question_id.encode()).digest()
    return collection in UNSEEN or digest[0] % 2 == 1


def training_examples(folder: Path) -> list[Example]:
    """The questions that are not held out and have relevant and other candidates."""
    dataset = load(folder)
    examples = []
    for question in candidates(dataset):
        if held_out(dataset.name, question.id):
            continue
        relevant, others = _by_relevance(question, dataset.qrels[question.id])
        if relevant and len(others) >= NEGATIVES:
            examples.append(Example(question.text, _texts(relevant), _texts(others)))
    return examples


def _by_relevance(
    question: Question, judged: dict[str, int]
) -> tuple[list[Candidate], list[Candidate]]:
    relevant = [c for c in question.candidates if judged.get(c.document_id, 0) > 0]
    return relevant, [c for c in question.candidates if judged.get(c.document_id, 0) == 0]


def _texts(found: Sequence[Candidate]) -> tuple[str, ...]:
    return tuple(candidate.text for candidate in found)


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    steps: int,
    rng: random.Random,
) -> None:
    """Cross-entropy over a relevant passage and its negatives; saves now and then."""
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 20, steps)
    mean = 0.0
    for step in track(range(1, steps + 1), "training"):
        loss = group_loss(model, tokenizer, rng.sample(examples, GROUPS), rng)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        mean += (loss.item() - mean) / min(step, 50)
        if step % SAVE_EVERY == 0 or step == steps:
            print(f"step {step}: loss {mean:.3f}", flush=True)
            model.save_pretrained(MODEL)
            tokenizer.save_pretrained(MODEL)


def group_loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    rng: random.Random,
) -> torch.Tensor:
    """The mean of -log softmax at the relevant passage, which stands first in its group."""
    questions, passages = [], []
    for example in examples:
        group = [rng.choice(example.relevant), *rng.sample(example.others, NEGATIVES)]
        questions += [example.question] * len(group)
        passages += group
    logits = pair_logits(model, tokenizer, questions, passages)
    groups = logits.view(len(examples), NEGATIVES + 1)
    return torch.nn.functional.cross_entropy(groups, torch.zeros(len(groups), dtype=torch.long))


def pair_logits(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    passages: Sequence[str],
) -> torch.Tensor:
    """Logits (n,) in bfloat16 arithmetic, computed with neighbours in length side by side."""
    cut = tokenizer(
        list(questions), list(passages), truncation="only_second", max_length=MAX_TOKENS
    )
    logits = torch.empty(len(questions))
    for batch in plan_batches([len(ids) for ids in cut["input_ids"]], BATCH_TOKENS):
        padded = tokenizer.pad(
            {k: [v[i] for i in batch] for k, v in cut.items()}, return_tensors="pt"
        )
        with torch.autocast("cpu", torch.bfloat16):
            logits[batch] = model(**padded).logits[:, 0].float()
    return logits


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="collections in the BEIR layout")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
