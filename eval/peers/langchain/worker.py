"""The pipeline of LangChain's own guides: Qdrant on disk, a cross-encoder, a local chat model.

Retriever, contextual compression by `CrossEncoderReranker`, a prompt, `ChatHuggingFace`.
"""

from pathlib import Path
from typing import Any

from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_community.cross_encoders import HuggingFaceCrossEncoder
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_huggingface import ChatHuggingFace, HuggingFaceEmbeddings, HuggingFacePipeline
from langchain_qdrant import QdrantVectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter
from protocol import Counted, answer_all, serve, timed
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, VectorParams
from transformers import AutoTokenizer

COLLECTION = "passages"
SYSTEM = (
    "You are an assistant for question-answering tasks. Use the following pieces of retrieved "
    "context to answer the question. If you don't know the answer, say that you don't know.\n\n"
    "{context}"
)


class Pipeline:
    """A chain over an index in `folder`."""

    def load(self, models: dict[str, str], folder: str, options: dict[str, int]) -> dict[str, Any]:
        embeddings = HuggingFaceEmbeddings(model_name=models["embedder"])
        client = QdrantClient(path=folder, force_disable_check_same_thread=True)
        if not client.collection_exists(COLLECTION):
            size = len(embeddings.embed_query("size"))
            vectors = VectorParams(size=size, distance=Distance.COSINE)
            client.create_collection(COLLECTION, vectors_config=vectors)
        self.store = QdrantVectorStore(client, COLLECTION, embeddings)
        retriever = ContextualCompressionRetriever(
            base_compressor=CrossEncoderReranker(
                model=HuggingFaceCrossEncoder(model_name=models["reranker"]),
                top_n=options["context"],
            ),
            base_retriever=self.store.as_retriever(search_kwargs={"k": options["rerank"]}),
        )
        llm = HuggingFacePipeline.from_model_id(
            model_id=models["generator"],
            task="text-generation",
            pipeline_kwargs={"max_new_tokens": options["new_tokens"], "return_full_text": False},
        )
        model = llm.pipeline.model
        self.counted = Counted(model)
        prompt = ChatPromptTemplate([("system", SYSTEM), ("human", "{question}")])
        self.chain = (
            {"context": retriever | _joined, "question": RunnablePassthrough()}
            | prompt
            | ChatHuggingFace(llm=llm)
            | StrOutputParser()
        )
        return {"precision": str(model.dtype)}

    def ingest(self, texts: list[str]) -> dict[str, float]:
        documents = [Document(text) for text in texts]
        seconds, _ = timed(lambda: self.store.add_documents(documents))
        return {"seconds": seconds}

    def answer(self, questions: list[str], concurrency: int) -> dict[str, Any]:
        return answer_all(self._ask, questions, concurrency)

    def _ask(self, question: str) -> int:
        self.chain.invoke(question)
        return self.counted.tokens


class Ingest:
    """Files, a splitter that counts the model's tokens, `add_documents`; a collection each time."""

    def load(self, model: str, folder: str, chunk_tokens: int, overlap: int) -> dict[str, Any]:
        self.embeddings = HuggingFaceEmbeddings(model_name=model)
        self.client = QdrantClient(path=folder, force_disable_check_same_thread=True)
        self.size = len(self.embeddings.embed_query("size"))
        self.splitter = RecursiveCharacterTextSplitter.from_huggingface_tokenizer(
            AutoTokenizer.from_pretrained(model), chunk_size=chunk_tokens, chunk_overlap=overlap
        )
        return {"precision": "its defaults"}

    def ingest(self, files: list[str], into: str) -> dict[str, float]:
        vectors = VectorParams(size=self.size, distance=Distance.COSINE)
        self.client.create_collection(into, vectors_config=vectors)
        store = QdrantVectorStore(self.client, into, self.embeddings)
        seconds, chunks = timed(lambda: self._ingest(files, store))
        return {"seconds": seconds, "chunks": chunks}

    def _ingest(self, files: list[str], store: QdrantVectorStore) -> int:
        documents = [
            Document(Path(file).read_text("utf8"), metadata={"source": file}) for file in files
        ]
        return len(store.add_documents(self.splitter.split_documents(documents)))


def _joined(documents: list[Document]) -> str:
    return "\n\n".join(document.page_content for document in documents)


if __name__ == "__main__":
    serve({"pipeline": Pipeline, "ingest": Ingest})
