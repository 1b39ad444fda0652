"""A TCP proxy on the loopback interface: the network between two processes, as a test wants it."""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, no time: closing sends RST


class Proxy:
    """Passes everything on until it is told otherwise. Close it at the end."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._links: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self._do(self._listen())

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """As if the other side had died: connections are reset, and new ones refused."""
        self._do(self._cut())

    def stall(self) -> None:
        """As if it hung: connections are taken, and nothing comes back on them."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def heal(self) -> None:
        """Pass everything on again, also what was sent while it was stalled."""
        self._do(self._heal())

    def close(self) -> None:
        """End all connections and stop."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(30)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._link, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._links):
            link: socket.socket = writer.get_extra_info("socket")
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        self._links.clear()

    async def _heal(self) -> None:
        self._flowing.set()
        await self._listen()

    async def _end(self) -> None:
        self._flowing.set()
        while True:
            await self._cut()
            # What was aborted is closed in the loop's next turn, and what was just being accepted
            # has its link a few turns later.
            for _ in range(5):
                await asyncio.sleep(0)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            if not self._links and not others:
                return
            await asyncio.wait(others or {asyncio.create_task(asyncio.sleep(0))}, timeout=0.1)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._links.add(writer)
        await self._flowing.wait()
        if self._server is None:  # it was cut before anything could be done
            self._drop(writer)
            return
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            self._drop(writer)
            return
        self._links.add(back)
        if self._server is None:  # it was cut meanwhile
            self._drop(writer)
            self._drop(back)
            return
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(2**16):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # it was cut
        finally:
            self._drop(writer)

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        self._links.discard(writer)
        writer.close()
