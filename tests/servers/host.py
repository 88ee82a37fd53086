"""Hosts in Python, as host.mjs is one in JavaScript: they take the same orders on descriptor 3, a line of JSON each.

host.py sdk: a host on the official Python SDK, with its own way to start and to end a server.
host.py codex: what codex-rs does around rmcp. A process group of its own without a session of its own, an environment
cleared but for a list, and where the client is dropped: SIGKILL for the direct child, SIGTERM for the group, and
SIGKILL for what of the group is left two seconds later.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

# Tools may answer at length; asyncio else refuses a line beyond 64 KiB.
LINE_MAX = 1 << 24


def children() -> set[int]:
    """The processes whose parent this one is: the SDK does not tell which one it has started."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == os.getpid():
            found.add(int(entry.parent.name))
    return found


class Connection:
    """What every kind has: how it is told, and what is heard of it."""

    def __init__(self, launch: dict):
        self.launch = launch
        self.errors: list[str] = []
        self.ended = asyncio.Event()
        self.log = tempfile.TemporaryFile("w+")

    async def closed(self, _) -> None:
        await self.ended.wait()

    async def heard(self, _) -> dict:
        self.log.seek(0)
        return {"stderr": self.log.read(), "errors": self.errors}


class Sdk(Connection):
    """All of a connection is one task, since the SDK wants to be left by the task that entered it."""

    async def connect(self, _) -> dict:
        self.leave = asyncio.Event()
        self.ready = asyncio.get_running_loop().create_future()
        before = children()
        self.life = asyncio.create_task(self.live())
        await asyncio.wait([self.ready, self.life], return_when=asyncio.FIRST_COMPLETED)
        if not self.ready.done():
            await self.life
        [pid] = children() - before
        return {"pid": pid}

    async def live(self) -> None:
        from mcp import ClientSession, StdioServerParameters
        from mcp.client.stdio import stdio_client

        async def on_message(message) -> None:
            if isinstance(message, Exception):
                self.errors.append(repr(message))

        complaints = logging.Handler(logging.WARNING)
        complaints.emit = lambda record: self.errors.append(record.getMessage())
        logging.getLogger().addHandler(complaints)
        try:
            async with stdio_client(StdioServerParameters(**self.launch), errlog=self.log) as streams:
                async with ClientSession(*streams, message_handler=on_message) as self.session:
                    await self.session.initialize()
                    self.ready.set_result(None)
                    await self.leave.wait()
        finally:
            logging.getLogger().removeHandler(complaints)
            self.ended.set()

    async def listTools(self, _) -> list[str]:
        return [tool.name for tool in (await self.session.list_tools()).tools]

    async def callTool(self, call: dict) -> str:
        result = await self.session.call_tool(call["name"], call["arguments"])
        return "\n".join(getattr(part, "text", "") for part in result.content)

    async def close(self, _) -> None:
        self.leave.set()
        await self.life


class Codex(Connection):
    """The least of a client: only how it starts and ends its server matters here."""

    KEPT = "HOME LOGNAME PATH SHELL USER __CF_USER_TEXT_ENCODING LANG LC_ALL TERM TMPDIR TZ".split()

    async def connect(self, _) -> dict:
        kept = {name: os.environ[name] for name in self.KEPT if name in os.environ}
        self.process = await asyncio.create_subprocess_exec(
            self.launch["command"],
            *self.launch["args"],
            env=kept | self.launch["env"],
            cwd=self.launch["cwd"],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self.log,
            preexec_fn=lambda: os.setpgid(0, 0),
            limit=LINE_MAX,
        )
        self.waiting: dict[int, asyncio.Future] = {}
        self.reader = asyncio.create_task(self.read())
        about = {"name": "codex-like", "version": "1.0.0"}
        await self.ask("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": about})
        await self.say({"method": "notifications/initialized"})
        return {"pid": self.process.pid}

    async def say(self, message: dict) -> None:
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0"} | message).encode() + b"\n")
        await self.process.stdin.drain()

    async def ask(self, method: str, params: dict) -> dict:
        number = len(self.waiting) + 1
        self.waiting[number] = asyncio.get_running_loop().create_future()
        await self.say({"id": number, "method": method, "params": params})
        reply = await self.waiting[number]
        if "error" in reply:
            raise RuntimeError(reply["error"]["message"])
        return reply["result"]

    async def read(self) -> None:
        async for line in self.process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                self.errors.append(line.decode(errors="replace"))
                continue
            if "method" not in message:
                self.waiting[message["id"]].set_result(message)
        for unanswered in self.waiting.values():
            if not unanswered.done():
                unanswered.set_exception(ConnectionError("the server is gone"))
        self.ended.set()

    async def listTools(self, _) -> list[str]:
        return [tool["name"] for tool in (await self.ask("tools/list", {}))["tools"]]

    async def callTool(self, call: dict) -> str:
        return "\n".join(part.get("text", "") for part in (await self.ask("tools/call", call))["content"])

    async def close(self, _) -> None:
        group = self.process.pid
        self.process.kill()
        if self.signal_group(group, signal.SIGTERM):
            await asyncio.sleep(2)
            self.signal_group(group, signal.SIGKILL)
        await self.process.wait()

    @staticmethod
    def signal_group(group: int, number: int) -> bool:
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return False
        return True


async def serve_orders(kind: type) -> None:
    """Does what the test orders until the test is gone."""
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=3), limit=LINE_MAX)
    connections: dict[str, Connection] = {}

    async def obey(order: dict) -> None:
        name, details = order["connection"], order.get("details")
        try:
            if order["what"] == "connect":
                connections[name] = kind(details)
            answer = await getattr(connections[name], order["what"])(details)
            reply = {"order": order["order"], "answer": answer}
        except Exception as error:
            reply = {"order": order["order"], "failure": f"{type(error).__name__}: {error}"}
        writer.write(json.dumps(reply).encode() + b"\n")

    running = set()
    async for line in reader:
        task = asyncio.create_task(obey(json.loads(line)))
        running.add(task)
        task.add_done_callback(running.discard)
    os._exit(0)


asyncio.run(serve_orders({"sdk": Sdk, "codex": Codex}[sys.argv[1]]))
