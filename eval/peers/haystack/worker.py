"""The pipeline of Haystack's own guides: Qdrant on disk, a cross-encoder, a local chat model."""

from typing import Any

from haystack import Document, Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.dataclasses import ChatMessage
from haystack_integrations.components.embedders.sentence_transformers import (
    SentenceTransformersDocumentEmbedder,
    SentenceTransformersTextEmbedder,
)
from haystack_integrations.components.generators.transformers import TransformersChatGenerator
from haystack_integrations.components.rankers.sentence_transformers import (
    SentenceTransformersSimilarityRanker,
)
from haystack_integrations.components.retrievers.qdrant import QdrantEmbeddingRetriever
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore
from protocol import Counted, answer_all, serve, timed

TEMPLATE = """\
Given the following documents, answer the question.
Documents:
{% for document in documents %}{{ document.content }}
{% endfor %}
Question: {{ question }}
Answer:"""


class Questions:
    """A pipeline over an index in `folder`."""

    def load(self, models: dict[str, str], folder: str, options: dict[str, int]) -> dict[str, Any]:
        self.store = QdrantDocumentStore(
            path=folder, embedding_dim=options["dim"], force_disable_check_same_thread=True
        )
        self.embedder = SentenceTransformersDocumentEmbedder(
            model=models["embedder"], progress_bar=False
        )
        self.embedder.warm_up()
        generator = TransformersChatGenerator(
            model=models["generator"],
            task="text-generation",
            generation_kwargs={"max_new_tokens": options["new_tokens"]},
        )
        parts = {
            "embedder": SentenceTransformersTextEmbedder(
                model=models["embedder"], progress_bar=False
            ),
            "retriever": QdrantEmbeddingRetriever(self.store, top_k=options["rerank"]),
            "ranker": SentenceTransformersSimilarityRanker(
                model=models["reranker"], top_k=options["context"]
            ),
            "prompt": ChatPromptBuilder(
                template=[ChatMessage.from_user(TEMPLATE)],
                required_variables=["documents", "question"],
            ),
            "generator": generator,
        }
        self.pipeline = Pipeline()
        for name, part in parts.items():
            self.pipeline.add_component(name, part)
        self.pipeline.connect("embedder.embedding", "retriever.query_embedding")
        self.pipeline.connect("retriever.documents", "ranker.documents")
        self.pipeline.connect("ranker.documents", "prompt.documents")
        self.pipeline.connect("prompt.prompt", "generator.messages")
        self.pipeline.warm_up()
        model = generator.pipeline.model
        self.counted = Counted(model)
        return {"precision": str(model.dtype)}

    def ingest(self, texts: list[str]) -> dict[str, float]:
        def write() -> None:
            documents = self.embedder.run([Document(content=text) for text in texts])
            self.store.write_documents(documents["documents"])

        seconds, _ = timed(write)
        return {"seconds": seconds}

    def answer(self, questions: list[str], concurrency: int) -> dict[str, Any]:
        return answer_all(self._ask, questions, concurrency)

    def _ask(self, question: str) -> int:
        self.pipeline.run({
            "embedder": {"text": question},
            "ranker": {"query": question},
            "prompt": {"question": question},
        })  # fmt: skip
        return self.counted.tokens


if __name__ == "__main__":
    serve({"pipeline": Questions})
