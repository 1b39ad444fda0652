"""What both sides read: passages as long as real ones are, and questions with candidates."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eval.datasets import load_dataset
from rag.demo import FOLDER

SETS = ("xquad-en", "covidqa", "hotpotqa-100", "musique-100", "policyqa", "pubmedqa")
WORDS_OF_A_CHUNK = 150  # shorter than any side's chunk: nobody splits, all index the same


@dataclass(frozen=True, slots=True)
class Texts:
    """`asked[i]` is a question with its candidates. `origin` says where it all came from."""

    passages: tuple[str, ...]
    asked: tuple[tuple[str, tuple[str, ...]], ...]
    origin: str

    @property
    def questions(self) -> list[str]:
        """The questions alone."""
        return [question for question, _ in self.asked]

    def chunks(self, count: int) -> list[str]:
        """The first passages that are short enough to be one chunk on every side."""
        short = [text for text in self.passages if len(text.split()) <= WORDS_OF_A_CHUNK]
        return short[:count]


def load_texts(folder: Path, passages: int, questions: int, candidates: int) -> Texts:
    """Passages drawn from all sets in `folder`, else the demo's documents over and over."""
    if not (folder / SETS[0]).is_dir():
        return _from_demo(passages, questions, candidates)
    draw = random.Random(0)
    pool = [
        text
        for name in SETS
        if (folder / name).is_dir()
        for text in _corpus(folder / name / "corpus.jsonl")
        if text.strip()
    ]
    found = _asked(folder / SETS[0], pool, questions, candidates, draw)
    return Texts(
        tuple(draw.sample(pool, passages)),
        found,
        f"{len(pool)} paragraphs of the sets in {folder.name}",
    )


def corpus(folder: Path) -> list[str]:
    """English text to train tokenizers on."""
    if (folder / SETS[0]).is_dir():
        return list(_corpus(folder / SETS[0] / "corpus.jsonl"))
    return _demo_paragraphs()


def _corpus(path: Path) -> Iterator[str]:
    with path.open(encoding="utf8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def _asked(
    folder: Path, pool: list[str], count: int, candidates: int, draw: random.Random
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The right passage, others of the same article, and any others up to `candidates`."""
    dataset = load_dataset(folder)
    by_title: dict[str, list[str]] = {}
    for document, title in dataset.titles.items():
        by_title.setdefault(title, []).append(dataset.texts[document])
    found = []
    for query in draw.sample(sorted(dataset.qrels), count):
        gold = next(iter(dataset.qrels[query]))
        near = by_title[dataset.titles[gold]]
        wanted = [dataset.texts[gold], *draw.sample(near, min(len(near), candidates // 2))]
        texts = list(dict.fromkeys([*wanted, *draw.sample(pool, candidates)]))[:candidates]
        draw.shuffle(texts)
        found.append((dataset.queries[query], tuple(texts)))
    return tuple(found)


def _from_demo(passages: int, questions: int, candidates: int) -> Texts:
    paragraphs = _demo_paragraphs()
    pool = [f"{text} ({n})" for n in range(passages // len(paragraphs) + 1) for text in paragraphs]
    draw = random.Random(0)
    asked = tuple(
        (f"What is said of {pool[n].split('.')[0]}?", tuple(draw.sample(pool, candidates)))
        for n in range(questions)
    )
    origin = f"the demo's {len(paragraphs)} paragraphs repeated: no retrieval sets are here"
    return Texts(tuple(pool[:passages]), asked, origin)


def _demo_paragraphs() -> list[str]:
    files = [path for path in sorted(FOLDER.iterdir()) if path.suffix in {".md", ".txt"}]
    paragraphs = [text for path in files for text in path.read_text("utf8").split("\n\n")]
    return [text for text in paragraphs if len(text.split()) > 20]
