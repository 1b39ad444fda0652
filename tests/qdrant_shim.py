"""A stand-in for a Qdrant server where there is none: `python -m tests.qdrant_shim FOLDER`.

The routes that `rag/store/server.py` calls over REST, and no others, on Qdrant Edge shards below a
folder. What it shows is what our side of the wire does; a real server is named in
RAG_TEST_QDRANT_URL, and then no shim is started.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import qdrant_edge as qe
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

ROOT = Path(__file__).parents[1]
UPDATED = {"operation_id": 0, "status": "completed"}
_DISTANCES = {"Cosine": qe.Distance.Cosine}
_SCHEMAS = {"keyword": qe.PayloadSchemaType.Keyword, "integer": qe.PayloadSchemaType.Integer}

Handler = Callable[[str, dict[str, Any]], Any]  # (collection, body) -> result


@contextmanager
def qdrant(folder: Path) -> Iterator[tuple[str, int]]:
    """(host, port) of the server that the environment names, or else of a shim over the folder."""
    if url := os.environ.get("RAG_TEST_QDRANT_URL"):
        parts = urlsplit(url)
        yield parts.hostname or "127.0.0.1", parts.port or 6333
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.qdrant_shim", str(folder)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            yield "127.0.0.1", int(process.stdout.readline())
        finally:
            process.kill()
            process.wait()


class Missing(Exception):
    """There is no such collection."""


class Shim:
    """Collections by name, each a shard; one call at a time, as the event loop makes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._shards = {path.name: qe.EdgeShard.load(str(path)) for path in folder.iterdir()}

    def app(self) -> Starlette:
        """The routes."""
        one = "/collections/{name}"
        return Starlette(
            routes=[
                _route("GET", "/collections", self._list),
                _route("GET", f"{one}/exists", self._exists),
                _route("PUT", one, self._create),
                _route("DELETE", one, self._drop),
                _route("PUT", f"{one}/index", self._index),
                _route("PUT", f"{one}/points", self._upsert),
                _route("POST", f"{one}/points/delete", self._delete),
                _route("POST", f"{one}/points/payload", self._set_payload),
                _route("POST", f"{one}/points/count", self._count),
                _route("POST", f"{one}/points/scroll", self._scroll),
                _route("POST", f"{one}/points/query/batch", self._query),
            ]
        )

    def _list(self, _: str, __: dict[str, Any]) -> dict[str, Any]:
        return {"collections": [{"name": name} for name in self._shards]}

    def _exists(self, name: str, _: dict[str, Any]) -> dict[str, Any]:
        return {"exists": name in self._shards}

    def _create(self, name: str, body: dict[str, Any]) -> bool:
        path = self._folder / name
        path.mkdir()
        vectors = {
            key: qe.EdgeVectorParams(given["size"], _DISTANCES[given["distance"]])
            for key, given in body["vectors"].items()
        }
        assert all(given == {"modifier": "idf"} for given in body["sparse_vectors"].values())
        sparse = {
            key: qe.EdgeSparseVectorParams(modifier=qe.Modifier.Idf)
            for key in body["sparse_vectors"]
        }
        config = qe.EdgeConfig(vectors=vectors, sparse_vectors=sparse)
        self._shards[name] = qe.EdgeShard.create(str(path), config)
        return True

    def _drop(self, name: str, _: dict[str, Any]) -> bool:
        if name not in self._shards:
            return False
        self._shards.pop(name).close()
        shutil.rmtree(self._folder / name)
        return True

    def _index(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        schema = body["field_schema"]
        kind = _SCHEMAS[schema if isinstance(schema, str) else schema["type"]]
        self._update(name, qe.UpdateOperation.create_field_index(body["field_name"], kind))
        return UPDATED

    def _upsert(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        points = [
            qe.Point(
                point["id"],
                {key: _vector(value) for key, value in point["vector"].items()},
                point["payload"],
            )
            for point in body["points"]
        ]
        self._update(name, qe.UpdateOperation.upsert_points(points))
        return UPDATED

    def _delete(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        where = _filter(body["filter"])
        self._update(name, qe.UpdateOperation.delete_points_by_filter(where))
        return UPDATED

    def _set_payload(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        where = _filter(body["filter"])
        self._update(name, qe.UpdateOperation.set_payload_by_filter(where, body["payload"]))
        return UPDATED

    def _count(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        request = qe.CountRequest(exact=body["exact"], filter=_filter(body["filter"]))
        return {"count": self._shard(name).count(request)}

    def _scroll(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        fields = body["with_payload"]
        request = qe.ScrollRequest(
            offset=body.get("offset"),
            limit=body["limit"],
            filter=_filter(body["filter"]),
            with_payload=fields if fields is True else qe.PayloadSelector.Include(fields),
            with_vector=body.get("with_vector") or False,
        )
        records, offset = self._shard(name).scroll(request)
        return {
            "points": [
                {"id": str(one.id), "payload": one.payload, "vector": _plain(one.vector)}
                for one in records
            ],
            "next_page_offset": str(offset) if offset is not None else None,
        }

    def _query(self, name: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        requests = [
            qe.QueryRequest(
                one["limit"],
                query=qe.Query.Nearest(_vector(one["query"]["nearest"]), using=one["using"]),
                filter=_filter(one["filter"]),
                with_payload=one["with_payload"],
            )
            for one in body["searches"]
        ]
        results = self._shard(name).query_batch(qe.QueryBatchRequest(requests))
        return [
            {
                "points": [
                    {"id": str(p.id), "version": p.version, "score": p.score, "payload": p.payload}
                    for p in points
                ]
            }
            for points in results
        ]

    def _update(self, name: str, operation: qe.UpdateOperation) -> None:
        self._shard(name).update(operation)

    def _shard(self, name: str) -> qe.EdgeShard:
        if name not in self._shards:
            raise Missing
        return self._shards[name]


def _route(method: str, path: str, handler: Handler) -> Route:
    async def endpoint(request: Request) -> Response:
        name = request.path_params.get("name", "")
        body = await request.body()
        try:
            result = handler(name, json.loads(body) if body else {})
        except Missing:
            reason = f"Not found: Collection `{name}` doesn't exist!"
            return JSONResponse({"status": {"error": reason}, "time": 0.0}, 404)
        return JSONResponse({"result": result, "status": "ok", "time": 0.0})

    return Route(path, endpoint, methods=[method])


def _vector(given: list[float] | dict[str, Any]) -> list[float] | qe.SparseVector:
    if isinstance(given, dict):
        return qe.SparseVector(indices=given["indices"], values=given["values"])
    return given


def _plain(vectors: Any) -> dict[str, list[float]] | None:
    if not isinstance(vectors, dict):
        return None
    return {name: [float(x) for x in vector] for name, vector in vectors.items()}


def _filter(given: dict[str, Any]) -> qe.Filter:
    return qe.Filter(
        must=[_condition(one) for one in given.get("must") or []],
        must_not=[_condition(one) for one in given.get("must_not") or []],
        should=[_condition(one) for one in given.get("should") or []] or None,
    )


def _condition(
    given: dict[str, Any],
) -> qe.FieldCondition | qe.IsEmptyCondition | qe.Filter:
    if "is_empty" in given:
        return qe.IsEmptyCondition(given["is_empty"]["key"])
    if "key" not in given:
        return _filter(given)
    if limits := given.get("range"):
        bounds = {key: limits.get(key) for key in ("gt", "gte", "lt", "lte")}
        return qe.FieldCondition(given["key"], range=qe.RangeFloat(**bounds))
    match = given["match"]
    if "any" in match:
        return qe.FieldCondition(given["key"], match=qe.MatchAny(match["any"]))
    value = match["value"]
    if isinstance(value, bool):
        value = np.bool_(value)  # Edge takes Python's True for the integer 1
    return qe.FieldCondition(given["key"], match=qe.MatchValue(value))


def main() -> None:
    """Print the port and serve until killed."""
    app = Shim(Path(sys.argv[1])).app()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sys.stdout.write(f"{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        server.run(sockets=[listening])


if __name__ == "__main__":
    main()
