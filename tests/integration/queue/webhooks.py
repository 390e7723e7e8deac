"""Webhook endpoints and their deliveries in a real queue, as the logger writes them."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

from shared.blasts import Blast
from shared.channels import WEBHOOK
from shared.jobs import Job, Recipient
from shared.queue.blasts import BlastStore
from shared.queue.producer import Chunk, Producer
from shared.queue.webhooks import Endpoints, webhook_partition
from shared.templates import Template
from shared.webhooks import Endpoint

ENDLESS = 2**53
_numbers = itertools.count(1)


def endpoint(number: int, url: str = "https://example.com/hook", *, enabled: bool = True) -> Endpoint:
    """Make an endpoint without secrets."""
    return Endpoint(f"we_{number}", number, url, enabled, [], [])


def endless(number: int) -> Blast:
    """Return the blast whose jobs are the deliveries to an endpoint."""
    template = Template(id="", name="", channels=[])
    return Blast(f"we_{number}", template, [WEBHOOK.name], "normal", 0, {WEBHOOK.name: ENDLESS}, 0)


def delivery(number: int, n: int) -> Job:
    """Return the job of a delivery."""
    body = json.dumps({"type": "message.sent", "data": {"n": n, "pad": "x" * 500}})
    recipient = Recipient(f"we_{number}", f"evt_{number}_{n}", {"body": body})
    return Job(f"we_{number}", n, WEBHOOK.name, "normal", recipient, time.time_ns() // 1_000_000)


def ids(number: int, first: int, count: int) -> list[str]:
    """Return the job ids of deliveries."""
    return [f"we_{number}:{n}:webhook" for n in range(first, first + count)]


async def publish(redis: Any, *endpoints: Endpoint) -> None:
    """Write endpoints for the senders, after the snapshots of their blasts."""
    store = BlastStore(redis, f"store-{next(_numbers)}")
    for one in endpoints:
        await store.restore(endless(one.number), {})
    await Endpoints(redis).put(*endpoints)


async def deliver(redis: Any, number: int, first: int, count: int) -> int:
    """Enqueue deliveries to an endpoint; return the watermark. Safe to repeat."""
    chunk = Chunk(endless(number), WEBHOOK.name, first, [delivery(number, n) for n in range(first, first + count)])
    producer = Producer(redis, f"producer-{next(_numbers)}")
    return (await producer.enqueue(chunk, webhook_partition(redis, number))).watermark
