"""What a user runs without a framework: sentence-transformers, and transformers' `generate`."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocol import serve, timed
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer


class Embed:
    """`SentenceTransformer.encode` with its defaults: batches of 32."""

    def load(self, model: str, dtype: str) -> dict[str, str]:
        self.model = SentenceTransformer(model, device="cpu", model_kwargs={"dtype": dtype})
        return {"precision": str(self.model.dtype)}

    def encode(self, texts: list[str], save: str | None = None) -> dict[str, float]:
        seconds, vectors = timed(lambda: self.model.encode(texts))
        if save:
            np.savez(save, values=np.asarray(vectors, dtype=np.float32))
        return {"seconds": seconds}


class Rerank:
    """`CrossEncoder.predict` with its defaults, but for the sigmoid, which would round scores."""

    def load(self, model: str, dtype: str) -> dict[str, str]:
        self.model = CrossEncoder(model, device="cpu", model_kwargs={"dtype": dtype})
        return {"precision": str(self.model.model.dtype)}

    def score(self, asked: list[list[Any]], save: str | None = None) -> dict[str, Any]:
        """Seconds of each question; `asked` are pairs of a question and its passages."""
        seconds, scores = [], []
        for question, passages in asked:
            pairs = [(question, passage) for passage in passages]
            spent, found = timed(lambda pairs=pairs: self._logits(pairs))
            seconds.append(spent)
            scores.append(np.asarray(found, dtype=np.float32))
        if save:
            np.savez(save, values=np.stack(scores))
        return {"seconds": seconds}

    def _logits(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        return self.model.predict(pairs, activation_fn=torch.nn.Identity())


class _Clock(BaseStreamer):
    """When each token came. `generate` hands over the prompt first."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:  # noqa: ARG002 - only the moment counts
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


class Generate:
    """`AutoModelForCausalLM.generate`: one after the other, or as one batch padded on the left."""

    def load(self, model: str, dtype: str) -> dict[str, str]:
        self.tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
        return {"precision": str(self.model.dtype)}

    def one(self, request: dict[str, Any]) -> dict[str, float]:
        """Seconds to the first and the last token of a request, and its tokens."""
        clock = _Clock()
        start = time.perf_counter()
        inputs = self.tokenizer(request["prompt"], return_tensors="pt")
        torch.manual_seed(request.get("seed") or 0)
        made = self.model.generate(**inputs, streamer=clock, **_options(request))
        seconds = time.perf_counter() - start
        prompt_tokens = inputs["input_ids"].shape[1]
        return {
            "first": clock.times[1] - start,
            "seconds": seconds,
            "tokens": int(made.shape[1] - prompt_tokens),
            "prompt_tokens": prompt_tokens,
        }

    def sequential(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        """All requests came at once and take turns."""
        start = time.perf_counter()
        first, finished, tokens = [], [], []
        for request in requests:
            waited = time.perf_counter() - start
            done = self.one(request)
            first.append(waited + done["first"])
            finished.append(time.perf_counter() - start)
            tokens.append(done["tokens"])
        return {"first": first, "finished": finished, "tokens": tokens}

    def batch(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        """All requests in one call: greedy and as long as the longest, for a batch has one way.

        Tokens beyond what a request asked for are not counted as its tokens.
        """
        start = time.perf_counter()
        prompts = [request["prompt"] for request in requests]
        inputs = self.tokenizer(prompts, return_tensors="pt", padding=True)
        longest = max(request["max_new_tokens"] for request in requests)
        made = self.model.generate(
            **inputs, do_sample=False, max_new_tokens=longest, min_new_tokens=longest,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        steps = int(made.shape[1] - inputs["input_ids"].shape[1])
        return {
            "first": [seconds] * len(requests),
            "finished": [seconds] * len(requests),
            "tokens": [min(steps, request["max_new_tokens"]) for request in requests],
        }


class Export:
    """Writes the ONNX file that fastembed reads, with the exporter that torch has."""

    def onnx(self, model: str, to: str) -> dict[str, str]:
        encoder = AutoModel.from_pretrained(model, dtype="float32").eval()
        names = ("input_ids", "attention_mask", "token_type_ids")
        sample = {name: torch.ones((2, 16), dtype=torch.int64) for name in names}
        shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=512)}
        Path(to).parent.mkdir(parents=True, exist_ok=True)
        torch.onnx.export(
            _LastHiddenState(encoder),
            args=tuple(sample.values()),
            f=to,
            input_names=list(names),
            output_names=["last_hidden_state"],
            dynamic_shapes=(shape, shape, shape),
            external_data=False,
        )
        return {"precision": "float32"}


class _LastHiddenState(torch.nn.Module):
    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> torch.Tensor:
        return self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state


def _options(request: dict[str, Any]) -> dict[str, Any]:
    length = request["max_new_tokens"]
    options = {"max_new_tokens": length, "min_new_tokens": length}
    if not request.get("do_sample"):
        return options | {"do_sample": False}
    return options | {k: request[k] for k in ("do_sample", "temperature", "top_p")}


if __name__ == "__main__":
    serve({"embed": Embed, "rerank": Rerank, "generate": Generate, "export": Export})
