"""Documents named by their URLs."""

from collections.abc import Iterator

import pytest

from tests.services.serving import is_problem, serving, with_settings
from tests.websites import Site, endless, running


@pytest.fixture
def site() -> Iterator[Site]:
    with running(Site()) as opened:
        yield opened


def ask(client, collection, *documents, wait="true"):
    sent = {"collection": collection, "documents": list(documents)}
    return client.post(f"/v1/documents?wait={wait}", json=sent)


def ids(client, collection):
    listed = client.get(f"/v1/documents?collection={collection}").json()["documents"]
    return [one["id"] for one in listed]


def test_a_document_is_fetched_and_known_by_its_url(parts, collection, site):
    said = {"Content-Type": "text/html; charset=utf-8"}
    site.pages["/light?v=1"] = (200, said, b"<title>Light</title><p>The light is white.</p>")
    with serving(with_settings(parts, fetch_private=True)) as client:
        url = site.url("/light?v=1")
        response = ask(
            client, collection, {"url": url, "metadata": {"sea": "north"}}, {"text": "A"}
        )
        assert response.status_code == 200, response.text
        first = response.json()["documents"][0]
        assert first["status"] == "ingested"
        where = f"/v1/documents/{first['id']}?collection={collection}"
        document = client.get(where).json()
        assert (document["source"], document["title"]) == (url, "Light")
        assert (document["media_type"], document["metadata"]) == ("text/html", {"sea": "north"})
        again = ask(client, collection, {"url": url, "metadata": {"sea": "north"}}).json()
        assert first.pop("truncated_tokens") == 0  # nobody counts those of what is there already
        assert again["documents"][0] == {**first, "status": "unchanged"}
        # Another name for the answer, and other words: still the document of that URL.
        said["Content-Disposition"] = "attachment; filename=other.html"
        site.pages["/light?v=1"] = (200, said, b"<title>Light</title><p>The light is red.</p>")
        (changed,) = ask(client, collection, {"url": url}).json()["documents"]
        assert (changed["id"], changed["status"]) == (first["id"], "replaced")
        (named,) = ask(client, collection, {"url": url, "id": "mine"}).json()["documents"]
        assert named["id"] == "mine"


def test_when_one_cannot_be_fetched_nothing_is_ingested(parts, collection, site):
    site.pages["/good"] = (200, {}, b"Good words.")
    site.pages["/endless"] = (200, {}, endless(site))
    good = {"url": site.url("/good")}
    with serving(with_settings(parts, fetch_private=True, max_file_bytes=100_000)) as client:
        response = ask(client, collection, good, {"text": "A"}, {"url": site.url("/gone")})
        found = is_problem(response, 422, "/problems/fetch-failed")
        assert found["detail"].startswith("documents.2: ")
        assert "status 404" in found["detail"]
        response = ask(client, collection, good, {"url": site.url("/endless")})
        assert is_problem(response, 413, "/problems/too-large")["detail"].startswith("documents.1")
        assert ids(client, collection) == []
        # The bytes of all together are bounded, as those of a form are.
        site.pages["/big"] = (200, {}, b"x" * 60_000)
        big = {"url": site.url("/big")}
        is_problem(ask(client, collection, big, {**big, "id": "b"}), 413, "/problems/too-large")


def test_the_own_network_is_refused(client, collection, site):
    for url in (site.url("/"), site.url("/", "localhost"), "http://169.254.169.254/latest"):
        found = is_problem(ask(client, collection, {"url": url}), 422, "/problems/invalid-input")
        assert "RAG_FETCH_PRIVATE" in found["hint"]
    assert site.asked == []
    assert ids(client, collection) == []


def test_requests_that_fetch_nothing(parts, client, collection, site):
    invalid = "/problems/invalid-input"
    url = site.url("/good")
    for wrong in (
        {"url": "file:///etc/passwd"},
        {"url": "https://me:secret@example.org/"},
        {"url": url, "text": "both"},
        {"url": url, "source": "elsewhere"},
        {"title": "neither"},
    ):
        is_problem(ask(client, collection, {"text": "A"}, wrong), 422, invalid)
    with serving(with_settings(parts, fetch_private=True, fetch_documents=1)) as small:
        two = ask(small, collection, {"url": url}, {"url": url, "id": "b"})
        is_problem(two, 413, "/problems/too-large")
        is_problem(ask(small, "nowhere", {"url": url}), 404, "/problems/not-found")
        is_problem(ask(small, collection, {"url": url, "id": "\x07"}), 422, invalid)
    assert site.asked == []
    assert ids(client, collection) == []
