"""One ingest for all tests without settings of their own, on a Valkey emptied before each, and some others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack

import pytest
from redis.asyncio import Redis

from shared.queue.connection import connect
from tests.integration.ingest.hook_requests import BY_URL, SIGNED
from tests.integration.ingest.running import Api, Peers, RunningIngest, open_api, running
from tests.servers import RedisServer, free_port

SEND_KEY, READ_KEY, BOUND_KEY = "send-key-0123456789", "read-key-0123456789", "bound-key-0123456789"
MASKED_KEY = "masked-key-0123456789"
# settings that are needed to provoke some codes; each kind is started once, when a test asks for it
KINDS: Mapping[str, Mapping[str, str]] = {
    "usual": {},
    "four partitions": {"KURIR_PARTITIONS": "4"},
    "small": {
        "KURIR_MAX_JSON_MB": "1",
        "KURIR_MAX_UPLOAD_MB": "8",
        "KURIR_BODY_TIMEOUT": "500ms",
        "KURIR_HEADER_TIMEOUT": "500ms",
        "KURIR_MAX_BACKLOG": "5",
        "KURIR_BULK_FROM": "3",
        "KURIR_QISCUS_APP_CODE": "",
        "KURIR_EMAIL_DOMAINS": "example.com,news.example.com",
    },
    "public": {"KURIR_PUBLIC_URL": "https://kurir.example.com/"},
    "plain http": {"KURIR_PUBLIC_URL": "http://kurir.example.com"},
    "private": {"KURIR_PUBLIC_URL": "https://kurir.lan"},
    "no secret": {"KURIR_PUBLIC_URL": "https://kurir.example.com", "KURIR_SECRET": ""},
    "sandboxed": {"KURIR_PUBLIC_URL": "http://127.0.0.1:3000", "KURIR_SANDBOXED": "email,whatsapp"},
    "keyed": {
        "KURIR_API_KEYS": f"client:{SEND_KEY}:send,reader:{READ_KEY}:read,bound:{BOUND_KEY}:send@news.example.com",
        "KURIR_RATE_LIMIT": "5/1h",
        "KURIR_EMAIL_DOMAINS": "example.com,news.example.com",
    },
    "scoped": {"KURIR_API_KEYS": f"client:{SEND_KEY}:send,reader:{READ_KEY}:read"},
    "console": {
        "KURIR_API_KEYS": f"client:{SEND_KEY}:send+read,reader:{READ_KEY}:read,"
        f"watcher:{MASKED_KEY}:send+read-masked,chief:chief-{MASKED_KEY}:admin",
        "KURIR_PUBLIC_URL": "https://kurir.example.com",
    },
    "hooked": SIGNED,
    "hooked by url": BY_URL,
    "hooked away": SIGNED,
    "open to webhooks": {"KURIR_WEBHOOK_ALLOW": "10.0.0.0/8,hooks.internal"},
    "flooded": {"KURIR_API_KEYS": f"client:{SEND_KEY}:send", "KURIR_RATE_LIMIT": "5/1h"},
}

StartIngest = Callable[[str], RunningIngest]


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[RedisServer]:
    """Start a Valkey only for ingest: these run until the session ends, and would write into other tests' queues."""
    server = RedisServer("valkey")
    server.start()
    yield server
    server.destroy()


@pytest.fixture(scope="session")
def start_ingest(valkey_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartIngest]:
    """Start each kind of ingest once; one whose name ends with "away" has no Redis."""
    found: dict[str, RunningIngest] = {}
    with ExitStack() as stack:

        def start(kind: str) -> RunningIngest:
            if kind not in found:
                url = valkey_server.url if not kind.endswith("away") else f"redis://127.0.0.1:{free_port()}/0"
                folder = tmp_path_factory.mktemp(kind)
                found[kind] = stack.enter_context(running(url, folder, KINDS.get(kind, {})))
            return found[kind]

        yield start


@pytest.fixture
def ingest(valkey_url: str, start_ingest: StartIngest) -> RunningIngest:
    """The usual ingest, on an empty Valkey, with peers that know nothing."""
    assert valkey_url
    usual = start_ingest("usual")
    usual.peers.reset()
    return usual


@pytest.fixture
def peers(ingest: RunningIngest) -> Peers:
    return ingest.peers


@pytest.fixture
async def api(ingest: RunningIngest) -> AsyncIterator[Api]:
    async with AsyncExitStack() as stack:
        yield await open_api(stack, ingest.url)


@pytest.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    """A client of the queue's own server."""
    client = connect(valkey_url)
    yield client
    await client.aclose()
