"""Documents that are there: listed, looked into, changed, replaced, deleted."""

import json
import tempfile
import tracemalloc
from urllib.parse import quote

import pytest

from rag.collection import index_of
from rag.errors import StoreUnreachable
from rag.orchestrator import Orchestrator
from rag.types import Scope
from tests.services.serving import BELL_ROCK, is_problem, server, serving, with_settings

JSON = {"content-type": "application/json"}


def add(client, collection, **documents):
    """Texts by id, each (text, metadata)."""
    sent = [
        {"id": name, "text": text, "metadata": metadata}
        for name, (text, metadata) in documents.items()
    ]
    response = client.post(
        "/v1/documents?wait=true", json={"collection": collection, "documents": sent}
    )
    assert response.status_code == 200, response.text


@pytest.fixture
def shelf(client, collection):
    """d0 to d4; the even ones are by Stevenson."""
    documents = {
        f"d{n}": (f"Text number {n}.", {"by": "Stevenson" if n % 2 == 0 else "Smeaton", "n": n})
        for n in range(5)
    }
    add(client, collection, **documents)
    return collection


def found(client, collection, **where):
    sent = {"collection": collection, "query": "text number", "filter": where}
    return {hit["document_id"] for hit in client.post("/v1/search", json=sent).json()["hits"]}


def listed(client, collection, **query):
    query = {"collection": collection, **query}
    response = client.get("/v1/documents", params=query)
    assert response.status_code == 200, response.text
    return [one["id"] for one in response.json()["documents"]], response.json()["next"]


# Changed


def test_metadata_and_title_are_patched(client, shelf):
    where = f"/v1/documents/d0?collection={shelf}"
    patch = {"title": "Zero", "metadata": {"n": 100, "by": None, "tags": ["x"]}}
    headers = {"content-type": "application/merge-patch+json"}
    response = client.patch(where, content=json.dumps(patch), headers=headers)
    assert response.status_code == 200
    changed = response.json()
    assert (changed["title"], changed["metadata"]) == ("Zero", {"n": 100, "tags": ["x"]})
    assert client.get(where).json() == changed
    assert found(client, shelf, n=100, tags="x", title="Zero") == {"d0"}
    assert found(client, shelf, by="Stevenson") == {"d2", "d4"}
    assert client.patch(where, json={"metadata": None}).json()["metadata"] == {}
    # The same upload again is no work and keeps all of it.
    sent = {"id": "d0", "text": "Text number 0.", "metadata": {"by": "Stevenson", "n": 0}}
    again = client.post(
        "/v1/documents?wait=true", json={"collection": shelf, "documents": [sent]}
    ).json()
    assert again["documents"][0]["status"] == "unchanged"
    assert client.get(where).json()["title"] == "Zero"


@pytest.mark.parametrize(
    ("patch", "named"),
    [
        ({"source": "x"}, "source"),
        ({"metadata": {"deep": {"er": 1}}}, "metadata.deep"),
        ({"metadata": [1]}, "metadata"),
        ({"title": 5}, "title"),
        ({"title": " "}, "title"),
        ({"title": "x" * 2001}, "title"),
    ],
)
def test_a_wrong_patch_names_the_field(client, shelf, patch, named):
    response = client.patch(f"/v1/documents/d0?collection={shelf}", json=patch)
    assert named in is_problem(response, 422, "/problems/invalid-input")["detail"]


def test_a_patch_of_nothing_or_of_too_much(client, parts, shelf):
    response = client.patch(f"/v1/documents/nobody?collection={shelf}", json={"title": "x"})
    is_problem(response, 404, "/problems/not-found")
    with serving(with_settings(parts, max_metadata_bytes=30)) as small:
        where = f"/v1/documents/d0?collection={shelf}"
        response = small.patch(where, json={"metadata": {"note": "x" * 30}})
        is_problem(response, 413, "/problems/too-large")


def test_a_patch_that_the_store_does_not_take_is_in_the_catalog(client, parts, shelf, monkeypatch):
    def down(*_, **__):
        raise StoreUnreachable("The store does not answer.")

    where = f"/v1/documents/d0?collection={shelf}"
    with monkeypatch.context() as patched:
        patched.setattr(parts.store, "paint", down)
        assert client.patch(where, json={"metadata": {"n": 77}}).status_code == 200
        assert client.get(where).json()["metadata"]["n"] == 77
        assert found(client, shelf, n=0) == set()
    ingestor = client.app.state.service.ingestor
    ingestor._sweep()
    assert found(client, shelf, n=77) == {"d0"}


# Put


def put(client, collection, document, content, /, *, wait=True, headers=None, **query):
    query = {"collection": collection, "wait": wait, **query}
    return client.put(f"/v1/documents/{document}", content=content, headers=headers, params=query)


def test_a_file_is_put_in_its_place(client, collection):
    headers = {"content-type": "text/markdown"}
    options = {"headers": headers, "name": "light.md", "metadata": '{"year": 1811}'}
    first = put(client, collection, "shelf/light", b"# Light\n\nIt is white.", **options)
    assert first.status_code == 200, first.text
    assert [one["status"] for one in first.json()["documents"]] == ["ingested"]
    where = f"/v1/documents/shelf/light?collection={collection}"
    document = client.get(where).json()
    assert (document["id"], document["title"]) == ("shelf/light", "Light")
    assert (document["source"], document["metadata"]) == ("light.md", {"year": 1811})
    again = put(client, collection, "shelf/light", b"# Light\n\nIt is white.", **options).json()
    assert again["documents"][0]["status"] == "unchanged"
    other = put(client, collection, "shelf/light", b"# Light\n\nIt is red.", name="light.md").json()
    assert other["documents"][0]["status"] == "replaced"
    assert client.get(where).json()["metadata"] == {}  # what is put is all there is
    assert client.get(f"/v1/documents/shelf/light/text?collection={collection}").text.endswith(
        "It is red."
    )


def test_a_put_that_is_not_waited_for_has_a_job(client, collection):
    response = put(client, collection, "a", b"Plain words.", wait=False)
    assert response.status_code == 202
    job_id = response.json()["job_id"]
    client.app.state.service.ingestor.ended(job_id).result(timeout=30)
    assert client.get(f"/v1/jobs/{job_id}").json()["state"] == "done"
    key = {"Idempotency-Key": f"put to {collection}"}
    one = put(client, collection, "b", b"Once.", headers=key).json()
    assert put(client, collection, "b", b"Once.", headers=key).json() == one
    twice = put(client, collection, "b", b"Twice.", headers=key)
    is_problem(twice, 409, "/problems/conflict")


def test_a_text_is_put_as_json(client, collection):
    sent = {"text": "Ünder the lamp.", "title": "Lamp", "metadata": {"sea": "north"}}
    response = put(client, collection, "lamp", json.dumps(sent), headers=JSON)
    assert response.status_code == 200, response.text
    document = client.get(f"/v1/documents/lamp?collection={collection}").json()
    assert (document["title"], document["metadata"]) == ("Lamp", {"sea": "north"})
    for wrong in ("{", '{"txt": "x"}', "[1]", '{"text": 1}'):
        response = put(client, collection, "lamp", wrong, headers=JSON)
        assert response.status_code in (400, 422)
    # A file that is JSON itself says so by its name.
    headers = {"content-type": "application/octet-stream"}
    response = put(
        client, collection, "data", b'{"lamp": "white"}', headers=headers, name="data.json"
    )
    assert response.status_code == 200, response.text
    found = client.get(f"/v1/documents/data?collection={collection}").json()
    assert found["media_type"] == "application/json"


@pytest.mark.parametrize("headers", [
    {"content-disposition": 'attachment; filename="page.html"'},
    {"content-type": "text/html"},
    {"content-type": "application/x-www-form-urlencoded",  # as curl says of anything
     "content-disposition": "attachment; filename*=UTF-8''page.html"},
])  # fmt: skip
def test_what_a_put_is_can_be_said_in_headers(client, collection, headers):
    content = b"<html><title>Fog</title><body><p>A siren sounds twice a minute.</p></body></html>"
    assert put(client, collection, "fog", content, headers=headers).status_code == 200
    document = client.get(f"/v1/documents/fog?collection={collection}").json()
    assert (document["media_type"], document["title"]) == ("text/html", "Fog")


def test_puts_that_cannot_be(client, parts, collection):
    headers = {"content-type": "multipart/form-data; boundary=x"}
    is_problem(put(client, collection, "a", b"--x--", headers=headers), 415, "about:blank")
    is_problem(put(client, "nowhere", "a", b"A"), 404, "/problems/not-found")
    invalid = "/problems/invalid-input"
    is_problem(put(client, collection, "%07", b"A"), 422, invalid)
    is_problem(put(client, collection, "a", b"A", name="a\nb"), 422, invalid)
    is_problem(put(client, collection, "a", b"A", metadata="{"), 422, invalid)
    is_problem(put(client, collection, "a", b"A", metadata='{"a": {}}'), 422, invalid)
    is_problem(put(client, collection, "a", b""), 422, "/problems/empty-document")
    with serving(with_settings(parts, max_file_bytes=1000)) as small:
        too_large = "/problems/too-large"
        is_problem(put(small, collection, "a", b"a" * 1001), 413, too_large)
        is_problem(put(small, collection, "a", (b"a" * 600 for _ in range(2))), 413, too_large)
        assert put(small, collection, "a", b"a" * 1000).status_code == 200


def test_no_way_in_keeps_a_file_whole_in_memory(own_parts, monkeypatch):
    """24 MB go in; what client and server allocate for them together is less than a third."""
    size = 24 * 2**20
    line = b"The lamp burns oil all night long.\n" * 1000
    monkeypatch.setattr(own_parts.journal, "claim", lambda **_: None)  # nobody parses it

    def post(client, file):
        return client.post("/v1/documents", files=[("files", ("post.txt", file))])

    def put(client, file):
        return client.put("/v1/documents/put", content=iter(lambda: file.read(2**16), b""))

    with server(Orchestrator(own_parts, Scope("default"))) as client:
        for send in (post, put):
            with tempfile.TemporaryFile() as file:
                for _ in range(size // len(line)):
                    file.write(line)
                file.seek(0)
                tracemalloc.start()
                response = send(client, file)
                _, peak = tracemalloc.get_traced_memory()
                tracemalloc.stop()
            assert response.status_code == 202, response.text
            assert peak < size / 3


# Listed


def test_documents_are_listed_by_a_filter(client, parts, shelf):
    ids, onward = listed(client, shelf, filter='{"by": "Stevenson"}', limit=2)
    assert ids == ["d0", "d2"]
    ids, onward = listed(client, shelf, filter='{"by": "Stevenson"}', limit=2, cursor=onward)
    assert (ids, onward) == (["d4"], None)
    assert listed(client, shelf, filter='{"n": {"gte": 3}}')[0] == ["d3", "d4"]
    assert listed(client, shelf, filter='{"not": {"by": "Smeaton"}}')[0] == ["d0", "d2", "d4"]
    # Few documents are read for one page: it is empty, and not the last.
    with serving(with_settings(parts, max_listed=3)) as slow:
        ids, onward = listed(slow, shelf, filter='{"n": 4}', limit=1)
        assert ids == []
        ids, onward = listed(slow, shelf, filter='{"n": 4}', limit=1, cursor=onward)
        assert (ids, onward) == (["d4"], None)


@pytest.mark.parametrize(
    "query",
    [
        {"filter": "{"},
        {"filter": "[1]"},
        {"filter": '{"page": 1}'},
        {"filter": '{"a.b": 1}'},
        {"cursor": "d0"},
        {"cursor": "e30"},  # {}
        {"cursor": "öä"},
        {"after": "d0"},
    ],
)
def test_a_list_says_what_is_wrong(client, shelf, query):
    response = client.get("/v1/documents", params={"collection": shelf, **query})
    is_problem(response, 422, "/problems/invalid-input")


# Deleted by a filter


def test_documents_are_deleted_by_a_filter(client, parts, shelf):
    query = {"collection": shelf, "filter": '{"by": "Stevenson"}'}
    would = client.delete("/v1/documents", params={**query, "dry_run": True}).json()
    assert would == {"count": 3, "dry_run": True, "documents": ["d0", "d2", "d4"]}
    assert len(listed(client, shelf)[0]) == 5
    done = client.delete("/v1/documents", params=query)
    assert done.status_code == 200
    assert done.json() == {**would, "dry_run": False}
    assert listed(client, shelf)[0] == ["d1", "d3"]
    assert found(client, shelf) == {"d1", "d3"}
    client.app.state.service.ingestor._sweep()  # what `sweep_soon` asked a thread for
    assert parts.catalog.all_stale() == []
    assert client.delete("/v1/documents", params=query).json()["count"] == 0


@pytest.mark.parametrize("where", [None, "", "{}", "null", '{"not": {}}', '{"page": 1}', "{"])
def test_a_deletion_names_what_is_to_go(client, shelf, where):
    query = {"collection": shelf} | ({} if where is None else {"filter": where})
    is_problem(client.delete("/v1/documents", params=query), 422, "/problems/invalid-input")
    assert len(listed(client, shelf)[0]) == 5


def test_an_empty_id_deletes_nothing(client, shelf):
    where = f"/v1/documents/?collection={shelf}"
    is_problem(client.delete(where), 422, "/problems/invalid-input")
    assert len(listed(client, shelf)[0]) == 5


# Parts of a document


def test_the_passages_of_a_document(client, collection):
    paragraphs = [f"Paragraph {n}. " + "The lamp burns oil all night long. " * 40 for n in range(6)]
    add(client, collection, long=("\n\n".join(paragraphs), {}))
    where = f"/v1/documents/long/chunks?collection={collection}"
    text = client.get(f"/v1/documents/long/text?collection={collection}").text
    chunks, cursor = [], ""
    while cursor is not None:
        page = client.get(f"{where}&limit=3&cursor={cursor}").json()
        assert len(page["chunks"]) <= 3
        chunks += page["chunks"]
        cursor = page["next"]
    document = client.get(f"/v1/documents/long?collection={collection}").json()
    assert len(chunks) == page["total"] == document["chunks"] > 3
    assert [chunk["index"] for chunk in chunks] == list(range(len(chunks)))
    assert all(chunk["text"] == text[chunk["start"] : chunk["end"]] for chunk in chunks)
    assert sum(chunk["tokens"] for chunk in chunks) == document["tokens"]
    assert chunks[0]["pages"] == []
    # A cursor is of one version of the document.
    first = client.get(f"{where}&limit=1").json()["next"]
    add(client, collection, long=("Short now.", {}))
    is_problem(client.get(f"{where}&cursor={first}"), 409, "/problems/conflict")
    is_problem(client.get(f"{where}&cursor=x"), 422, "/problems/invalid-input")
    nobody = client.get(f"/v1/documents/nobody/chunks?collection={collection}")
    is_problem(nobody, 404, "/problems/not-found")


def test_pages_and_headings_of_passages(client, collection):
    from tests.services.test_ingestion import pdf

    content = pdf("The first page says little.", "The second says no more.")
    put(client, collection, "pages", content, headers={"content-type": "application/pdf"})
    (chunk,) = client.get(f"/v1/documents/pages/chunks?collection={collection}").json()["chunks"]
    assert chunk["pages"] == [1, 2]
    put(client, collection, "notes", b"# Fog\n\n## Sirens\n\nTwice a minute.", name="notes.md")
    chunks = client.get(f"/v1/documents/notes/chunks?collection={collection}").json()["chunks"]
    assert chunks[0]["headings"] == ["Fog"]


def test_missing_points_are_said(client, parts, shelf):
    service = client.app.state.service
    record = parts.catalog.document(service.scope, shelf, "d0")
    index = index_of(parts.catalog.collection(service.scope, shelf))
    parts.store.delete(service.scope, index, "d0", [record.generation])
    response = client.get(f"/v1/documents/d0/chunks?collection={shelf}")
    assert "rag fsck" in is_problem(response, 404, "/problems/not-found")["hint"]


def test_the_original_comes_back_byte_for_byte(client, collection):
    content = "<html><body><p>Grüße vom Leuchtturm, geschrieben in Latin-1.</p>".encode("latin-1")
    put(
        client,
        collection,
        "page",
        content,
        headers={"content-type": "text/html"},
        name="Grüße.html",
    )
    where = f"/v1/documents/page/original?collection={collection}"
    response = client.get(where)
    assert response.content == content
    assert response.headers["content-type"] == "text/html"  # and no charset that it is not in
    assert response.headers["x-content-type-options"] == "nosniff"
    disposition = response.headers["content-disposition"]
    assert disposition == f"attachment; filename*=utf-8''{quote('Grüße.html')}"
    part = client.get(where, headers={"range": "bytes=6-11"})
    assert (part.status_code, part.content) == (206, content[6:12])
    add(client, collection, words=("Ünder the lamp.", {}))
    words = client.get(f"/v1/documents/words/original?collection={collection}")
    assert words.headers["content-type"] == "text/plain; charset=utf-8"
    assert words.text == "Ünder the lamp."
    nobody = client.get(f"/v1/documents/nobody/original?collection={collection}")
    is_problem(nobody, 404, "/problems/not-found")


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("plain.txt", 'attachment; filename="plain.txt"'),
        ('a"b.txt', "attachment; filename*=utf-8''a%22b.txt"),
        ("../../etc/passwd", 'attachment; filename="passwd"'),
        ("a;b=c.txt", "attachment; filename*=utf-8''a%3Bb%3Dc.txt"),
        ("..", 'attachment; filename="named"'),  # by its id
    ],
)
def test_the_name_of_an_original_is_safe_in_a_header(client, collection, name, disposition):
    assert put(client, collection, "named", b"Words.", name=name).status_code == 200
    response = client.get(f"/v1/documents/named/original?collection={collection}")
    assert response.headers["content-disposition"] == disposition


@pytest.mark.parametrize("part", ["text", "chunks", "original"])
def test_an_id_may_end_like_the_route_of_a_part(client, collection, part):
    add(client, collection, **{f"shelf/{part}": ("The tower is white.", {})})
    found = client.get(f"/v1/documents/shelf/{part}?collection={collection}").json()
    assert found["id"] == f"shelf/{part}"
    response = client.get(f"/v1/documents/shelf/{part}/{part}?collection={collection}")
    assert "The tower is white." in response.text
    assert "content_hash" not in response.text
    longest = "x" * 512
    add(client, collection, **{longest: ("Long.", {})})
    assert client.get(f"/v1/documents/{longest}/{part}?collection={collection}").is_success


# Deleted, proved


def test_a_deletion_is_proved(client, collection):
    add(client, collection, bell=(BELL_ROCK, {"sea": "north"}))
    response = client.delete(f"/v1/documents/bell?collection={collection}&prove=true")
    assert response.status_code == 200
    proof = response.json()
    assert (proof["id"], proof["collection"], proof["gone"]) == ("bell", collection, True)
    places = {place["what"]: (place["before"], place["after"]) for place in proof["places"]}
    assert places["document, title and metadata"] == (1, 0)
    assert places["job records"] == places["jobs of this document alone"] == (1, 0)
    assert sum(before for what, (before, _) in places.items() if what.startswith("points")) == 1
    assert client.get(f"/v1/jobs?collection={collection}").json()["jobs"] == []
    again = client.delete(f"/v1/documents/bell?collection={collection}&prove=true")
    is_problem(again, 404, "/problems/not-found")
