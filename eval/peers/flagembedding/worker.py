"""FlagEmbedding's `FlagReranker` with its defaults: float32, batches of 128."""

from typing import Any

import numpy as np
from FlagEmbedding import FlagReranker
from protocol import serve, timed


class Rerank:
    """`FlagReranker.compute_score`, raw logits."""

    def load(self, model: str) -> dict[str, str]:
        self.model = FlagReranker(model, devices=["cpu"])
        return {"precision": str(self.model.model.dtype)}

    def score(self, asked: list[list[Any]], save: str | None = None) -> dict[str, Any]:
        """Seconds of each question; `asked` are pairs of a question and its passages."""
        seconds, scores = [], []
        for question, passages in asked:
            pairs = [(question, passage) for passage in passages]
            spent, found = timed(lambda pairs=pairs: self.model.compute_score(pairs))
            seconds.append(spent)
            scores.append(np.asarray(found, dtype=np.float32))
        if save:
            np.savez(save, values=np.stack(scores))
        return {"seconds": seconds}


if __name__ == "__main__":
    serve({"rerank": Rerank})
