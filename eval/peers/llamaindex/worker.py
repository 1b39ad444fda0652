"""The pipeline of LlamaIndex's own guides: Qdrant on disk, a cross-encoder, a local model."""

from pathlib import Path
from typing import Any

from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import TextNode
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.llms.huggingface import HuggingFaceLLM
from llama_index.postprocessor.sbert_rerank import SentenceTransformerRerank
from llama_index.vector_stores.qdrant import QdrantVectorStore
from protocol import Counted, answer_all, serve, timed
from qdrant_client import QdrantClient
from transformers import AutoTokenizer

COLLECTION = "passages"


class Pipeline:
    """A query engine over an index in `folder`."""

    def load(self, models: dict[str, str], folder: str, options: dict[str, int]) -> dict[str, Any]:
        client = QdrantClient(path=folder, force_disable_check_same_thread=True)
        store = QdrantVectorStore(COLLECTION, client=client)
        self.index = VectorStoreIndex.from_vector_store(
            store,
            embed_model=HuggingFaceEmbedding(models["embedder"]),
            storage_context=StorageContext.from_defaults(vector_store=store),
        )
        llm = HuggingFaceLLM(
            model_name=models["generator"],
            tokenizer_name=models["generator"],
            context_window=options["window"],
            max_new_tokens=options["new_tokens"],
            is_chat_model=True,
        )
        self.counted = Counted(llm._model)
        reranker = SentenceTransformerRerank(model=models["reranker"], top_n=options["context"])
        self.engine = self.index.as_query_engine(
            llm=llm, similarity_top_k=options["rerank"], node_postprocessors=[reranker]
        )
        return {"precision": str(llm._model.dtype)}

    def ingest(self, texts: list[str]) -> dict[str, float]:
        nodes = [TextNode(text=text) for text in texts]
        seconds, _ = timed(lambda: self.index.insert_nodes(nodes))
        return {"seconds": seconds}

    def answer(self, questions: list[str], concurrency: int) -> dict[str, Any]:
        return answer_all(self._ask, questions, concurrency)

    def _ask(self, question: str) -> int:
        self.engine.query(question)
        return self.counted.tokens


class Ingest:
    """Files, a splitter that counts the model's tokens, the ingestion pipeline of the guides."""

    def load(self, model: str, folder: str, chunk_tokens: int, overlap: int) -> dict[str, Any]:
        self.client = QdrantClient(path=folder, force_disable_check_same_thread=True)
        tokenizer = AutoTokenizer.from_pretrained(model)
        splitter = SentenceSplitter(
            chunk_size=chunk_tokens, chunk_overlap=overlap, tokenizer=tokenizer.tokenize
        )
        self.steps = [splitter, HuggingFaceEmbedding(model)]
        return {"precision": "its defaults"}

    def ingest(self, files: list[str], into: str) -> dict[str, float]:
        store = QdrantVectorStore(into, client=self.client)
        pipeline = IngestionPipeline(transformations=self.steps, vector_store=store)
        seconds, nodes = timed(lambda: pipeline.run(documents=_documents(files)))
        return {"seconds": seconds, "chunks": len(nodes)}


def _documents(files: list[str]) -> list[Document]:
    return [Document(text=Path(file).read_text("utf8"), id_=file) for file in files]


if __name__ == "__main__":
    serve({"pipeline": Pipeline, "ingest": Ingest})
