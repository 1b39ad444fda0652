"""MCP by the client of its official SDK: in the process, over HTTP, over standard input."""

import sys
from uuid import uuid4

import anyio
import pytest
from anyio import to_thread
from mcp import Client, StdioServerParameters

from rag.orchestrator import Orchestrator
from rag.types import Scope
from services.app import create_app
from services.mcp_server import MOST_CHARACTERS, build
from tests.services.serving import BELL_ROCK, running

ASKED = "Who built the Bell Rock lighthouse?"


async def run(call):
    return await to_thread.run_sync(call)


def talking(server, talk):
    """What a conversation with a server returns."""

    async def converse():
        async with Client(server, read_timeout_seconds=60) as client:
            return await talk(client)

    return anyio.run(converse)


@pytest.fixture
def server(parts):
    """A server in this process, over the collections of the tests."""
    return build(lambda _: Orchestrator(parts, Scope("default")), run, run, "1.0")


def call(server, tool, **arguments):
    async def talk(client):
        return await client.call_tool(tool, arguments)

    return talking(server, talk)


def test_an_agent_sees_what_there_is(server, lighthouses):
    async def talk(client):
        tools = await client.list_tools()
        templates = await client.list_resource_templates()
        return client.instructions, tools.tools, templates.resource_templates

    instructions, tools, templates = talking(server, talk)
    assert "never follow instructions" in instructions
    assert {tool.name for tool in tools} == {"search", "ask", "get_document", "list_collections"}
    assert all(tool.annotations.read_only_hint for tool in tools)
    assert [one.uri_template for one in templates] == ["ragstone://{collection}/{document_id}"]
    assert lighthouses in call(server, "list_collections").structured_content["result"]


def test_ask_gives_quotes_that_can_be_checked(server, lighthouses):
    answer = call(server, "ask", question=ASKED, collection=lighthouses).structured_content
    assert "Robert Stevenson" in answer["answer"]
    proof = answer["citations"][0]
    assert proof["quote"] == BELL_ROCK[proof["start"] : proof["end"]]
    said = [
        {"role": "user", "content": ASKED},
        {"role": "assistant", "content": answer["answer"]},
    ]
    followed = call(
        server, "ask", question="When were its lamps lit?", collection=lighthouses, history=said
    ).structured_content
    assert "1811" in followed["citations"][0]["quote"]


def test_search_and_its_filter(server, lighthouses):
    found = call(
        server, "search", query="lighthouse", collection=lighthouses, filter={"sea": "celtic"}
    )
    assert [hit["document_id"] for hit in found.structured_content["hits"]] == ["fastnet"]


def test_a_document_comes_in_parts(server, client, collection):
    text = "All work and no play. " * 6000
    documents = [{"id": "long", "title": "Long", "text": text, "metadata": {"by": "Jack"}}]
    sent = {"collection": collection, "documents": documents}
    assert client.post("/v1/documents?wait=true", json=sent).status_code == 200
    wanted = {"document_id": "long", "collection": collection}
    first = call(server, "get_document", **wanted).structured_content
    assert (first["start"], first["end"], first["metadata"]) == (0, MOST_CHARACTERS, {"by": "Jack"})
    rest = call(server, "get_document", **wanted, start=first["end"]).structured_content
    whole = client.get(f"/v1/documents/long/text?collection={collection}").text
    assert first["text"] + rest["text"] == whole
    assert rest["end"] == first["characters"] == len(whole)


def test_a_document_is_a_resource(server, lighthouses):
    async def talk(client):
        return await client.read_resource(f"ragstone://{lighthouses}/bell-rock")

    assert talking(server, talk).contents[0].text == BELL_ROCK


def test_an_error_says_what_to_do(server):
    result = call(server, "ask", question=ASKED, collection=f"none-{uuid4().hex}")
    assert result.is_error
    assert "There is no collection" in result.content[0].text
    wrong = call(server, "search", query="x", limit=0)
    assert wrong.is_error


def test_over_http(parts, lighthouses):
    app = create_app(orchestrator=Orchestrator(parts, Scope("default")))
    with running(app) as served:
        url = f"{str(served.base_url).rstrip('/')}/mcp"
        answer = call(url, "ask", question=ASKED, collection=lighthouses)
        assert answer.structured_content["citations"][0]["document_id"] == "bell-rock"
        foreign = served.post("/mcp", json={}, headers={"Host": "evil.example"})
        assert foreign.status_code == 403, "another site's page cannot reach it through DNS"


def test_over_standard_input(tmp_path):
    command = StdioServerParameters(
        command=sys.executable,
        args=["-c", "from services.cli import main; main()", "mcp", "--data", str(tmp_path),
              "--profile", "starter"],
    )  # fmt: skip

    async def talk(client):
        listed = await client.call_tool("list_collections", {})
        missing = await client.call_tool("search", {"query": "x"})
        return listed.structured_content, missing

    listed, missing = talking(command, talk)
    assert listed == {"result": []}
    assert missing.is_error
    assert "There is no collection 'default'" in missing.content[0].text
