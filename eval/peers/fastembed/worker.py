"""fastembed with a model of the user's own: ONNX Runtime, float32, its default batches of 256."""

from pathlib import Path

import numpy as np
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
from protocol import serve, timed


class Embed:
    """`TextEmbedding.embed` of a custom model in a folder."""

    def load(self, model: str, pooling: str, dim: int) -> dict[str, str]:
        name = f"local/{Path(model).name}"
        TextEmbedding.add_custom_model(
            model=name,
            pooling=PoolingType.CLS if pooling == "cls" else PoolingType.MEAN,
            normalization=True,
            sources=ModelSource(hf=name),  # required, and not used: the files are here
            dim=dim,
            model_file="onnx/model.onnx",
        )
        self.model = TextEmbedding(name, specific_model_path=model)
        return {"precision": "float32"}

    def encode(self, texts: list[str], save: str | None = None) -> dict[str, float]:
        seconds, vectors = timed(lambda: np.stack(list(self.model.embed(texts))))
        if save:
            np.savez(save, values=vectors.astype(np.float32))
        return {"seconds": seconds}


if __name__ == "__main__":
    serve({"embed": Embed})
