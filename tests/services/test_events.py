import asyncio

from rag.types import TextPiece
from services import events
from services.events import EventStream, OwnWords
from services.threads import Pool


async def nothing_more():
    await asyncio.Event().wait()


def test_a_client_that_reads_no_more_is_hung_up_on(monkeypatch):
    """Else so many of them as there are places would keep everybody else out."""
    monkeypatch.setattr(events, "SEND_SECONDS", 0.05)
    closed = []

    def answer():
        try:
            while True:
                yield TextPiece("and so on ")
        finally:
            closed.append(True)

    async def served():
        pool = Pool(1)
        made = pool.stream(answer)
        sent = []

        async def send(message):
            if len(sent) == 3:  # its window is full
                await asyncio.Event().wait()
            sent.append(message)

        response = EventStream(await anext(made), made, "/v1/ask", OwnWords("/v1/ask"))
        await asyncio.wait_for(response({"type": "http"}, nothing_more, send), 10)
        return pool.inside, sent

    inside, sent = asyncio.run(served())
    assert inside == 0
    assert closed == [True]
    assert len(sent) == 3
