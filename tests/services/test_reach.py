"""Commands get the same answers from a folder that they open and from the server that has it."""

import pytest

from rag.errors import DataFolderBusy, InvalidInput, NotFound
from rag.sampling import Sampling
from services.cli import opened
from services.client import Client
from services.reach import ByServer, InPlace, open_or_find
from tests.services.serving import server

QUESTION = "When was the Bell Rock light lit?"


@pytest.fixture(scope="module")
def url(lighthouse):
    with server(lighthouse) as client:
        yield str(client.base_url).rstrip("/")


@pytest.fixture
def there(url):
    with Client(url, patience=0) as client:
        yield ByServer(client)


@pytest.fixture
def here(lighthouse):
    return InPlace(lighthouse)


def test_lists_are_the_same(here, there):
    assert there.collections() == here.collections()
    documents = list(there.documents("lighthouse"))
    assert documents == list(here.documents("lighthouse"))
    assert len(documents) == 15


def test_hits_are_the_same(here, there):
    options = {"collection": "lighthouse", "limit": 3, "mode": "hybrid", "rerank": True}
    ours, theirs = (one.search(QUESTION, filter=None, **options) for one in (here, there))
    assert len(ours.hits) == 3
    assert [hit.chunk_id for hit in theirs.hits] == [hit.chunk_id for hit in ours.hits]
    assert [hit.text for hit in theirs.hits] == [hit.text for hit in ours.hits]


def test_answers_are_the_same(here, there):
    options = {"collection": "lighthouse", "sampling": Sampling(), "filter": None}
    ours, theirs = (list(one.ask(QUESTION, **options)) for one in (here, there))
    assert [type(event) for event in theirs] == [type(event) for event in ours]
    assert theirs[-1].answer == ours[-1].answer
    assert theirs[-1].citations == ours[-1].citations


@pytest.mark.parametrize("where", ["here", "there"])
def test_errors_are_the_same(where, request):
    folder = request.getfixturevalue(where)
    with pytest.raises(NotFound, match="no collection 'nowhere'"):
        list(folder.documents("nowhere"))
    with pytest.raises(NotFound):
        list(folder.ask(QUESTION, collection="nowhere", sampling=Sampling(), filter=None))
    wrong = Sampling(temperature=-1.0)
    with pytest.raises(InvalidInput, match="temperature"):
        list(folder.ask(QUESTION, collection="lighthouse", sampling=wrong, filter=None))
    with pytest.raises(InvalidInput, match="limit"):
        folder.search(QUESTION, collection="lighthouse", limit=0)


def test_a_folder_is_opened_or_its_server_found(lighthouse, url, rag):
    assert open_or_find(lighthouse.parts.settings) == url
    with pytest.raises(DataFolderBusy):  # this process has it open, and serves nothing
        open_or_find(rag.parts.settings)
    free = rag.parts.settings.model_copy(update={"data": rag.parts.settings.data / "another"})
    ours = open_or_find(free)
    assert not isinstance(ours, str)
    with ours:
        assert ours.parts.catalog.collections(ours.scope) == []


def test_a_command_that_needs_the_folder_itself_names_the_server(lighthouse, url):
    data = lighthouse.parts.settings.data
    with pytest.raises(DataFolderBusy) as caught, opened(data, "starter"):
        pass
    assert url in caught.value.message
    assert f"{url}/docs" in caught.value.hint
