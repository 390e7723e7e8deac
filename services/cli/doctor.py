"""`kurir doctor`: finds inconsistencies in Redis, repairs them on request, and reports what it did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import aiohttp
import typer

from services.cli.api_client import EXIT_UNREACHABLE, ApiClient, AsJson, DataDir, Port, RefusedError, UnreachableError
from services.cli.data_secrets import internal_secret
from services.cli.plan import LOGGER_OFFSET, UpOptions
from services.cli.queue_url import explained, find_partitions, find_queue
from services.cli.terminal import complain, print_json, stdout, table
from shared.channels import CHANNELS
from shared.errors import KurirError, SettingsError
from shared.lifecycle import EXIT_FAILED, EXIT_SETTINGS
from shared.queue.batches import boot_name
from shared.queue.connection import Connection, check_server, connect
from shared.queue.doctor import Doctor, Finding, OpenJob
from shared.queue.partitions import Partition, existing_partitions, first_partition
from shared.queue.safety import Safety, SafetyCheck
from shared.queue.spread_check import check_spread
from shared.queue.webhooks import Endpoints, webhook_partition
from shared.web import credentials

_console = stdout()
_PAGE = 1000


def doctor(
    context: typer.Context,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair what is found, instead of only reporting it.")
    ] = False,
    port: Port = 3000,
    redis_url: Annotated[str | None, typer.Option(help="The Redis to examine; KURIR_REDIS_URL by default.")] = None,
    url: Annotated[str, typer.Option("--url", envvar="KURIR_LOGGER_URL", help="The logger's URL.")] = "",
    older_than: Annotated[
        int, typer.Option(min=0, help="Seconds without an event after which the queue is checked for an open job.")
    ] = 60,
    data_dir: DataDir = Path("data"),
    as_json: AsJson = False,
) -> None:
    """Examine the queue of the running system; exit code 1 if something is wrong and was not repaired."""
    options = UpOptions(port=port, data_dir=data_dir, redis_url=redis_url)
    logger_url = url.rstrip("/") or f"http://127.0.0.1:{port + LOGGER_OFFSET}"
    try:
        redis = find_queue(options, context.obj)
        secret = internal_secret(context.obj, data_dir)
        visit = Visit(redis, logger_url, secret, older_than, repair, find_partitions(context.obj))
        report = asyncio.run(examine(visit))
    except SettingsError as error:
        complain("doctor", error.problems)
        raise typer.Exit(EXIT_SETTINGS) from None
    except KurirError as error:
        complain("doctor", explained(error))
        raise typer.Exit(EXIT_UNREACHABLE) from None
    _print(report, as_json=as_json)
    if report.unreachable:
        raise typer.Exit(EXIT_UNREACHABLE)
    if any(finding.wrong and not finding.repaired for finding in report.findings):
        raise typer.Exit(EXIT_FAILED)


@dataclass(frozen=True, slots=True)
class Visit:
    """The system to examine, and the options."""

    redis_url: str
    logger_url: str
    secret: str = field(repr=False)
    older_than_s: int
    repair: bool
    partitions: int = 1


@dataclass(frozen=True, slots=True)
class Report:
    """The findings; `unreachable` says why the log was not compared, "" if it was."""

    findings: list[Finding]
    unreachable: str


@dataclass(frozen=True, slots=True)
class LoggersOpenJobs:
    """The open jobs, read from the logger page by page."""

    api: ApiClient
    older_than_s: int

    async def list_open(self) -> AsyncIterator[list[OpenJob]]:
        """Yield pages of open jobs that have not changed for a while; raises UnreachableError."""
        cursor = ""
        while True:
            query = {"olderThanSeconds": str(self.older_than_s), "limit": _PAGE, "cursor": cursor}
            answer = await self.api.get("/internal/open-jobs", query)
            yield [OpenJob(one["jobId"], one["run"], one["attempts"]) for one in answer["jobs"]]
            cursor = answer["nextCursor"] or ""
            if not cursor:
                return


async def examine(visit: Visit) -> Report:
    """Examine every channel, then compare with the log; raises QueueUnavailableError if Redis is away."""
    redis = connect(visit.redis_url, partitions=visit.partitions)
    findings: list[Finding] = []
    try:
        await check_server(redis)
        findings += examine_safety(await SafetyCheck(redis).run())
        recipients = [one for channel in CHANNELS for one in await existing_partitions(redis, channel)]
        for channel in CHANNELS:
            findings += await check_spread(redis, channel, boot_name("doctor", channel), repair=visit.repair)
        for partition in recipients + await _webhook_partitions(redis):
            findings += await _doctor_of(partition, visit).examine()
        try:
            timeout = aiohttp.ClientTimeout(total=60)
            async with aiohttp.ClientSession(timeout=timeout, headers=credentials(visit.secret)) as http:
                open_jobs = LoggersOpenJobs(ApiClient(http, visit.logger_url), visit.older_than_s)
                # a delivery to a webhook that Redis lost is enqueued again by the logger
                for channel in CHANNELS:
                    findings += await _doctor_of(first_partition(redis, channel), visit).find_lost(open_jobs)
        except RefusedError as error:
            return Report(
                findings, f"the logger refuses the call: {error}; set --data-dir to the folder with its secret"
            )
        except UnreachableError as error:
            return Report(findings, str(error))
    finally:
        await redis.aclose()
    return Report(findings, "")


def _doctor_of(partition: Partition, visit: Visit) -> Doctor:
    return Doctor(partition, boot_name("doctor", partition.name), repair=visit.repair)


async def _webhook_partitions(redis: Connection) -> list[Partition]:
    endpoints, unreadable = await Endpoints(redis).load()
    numbers = sorted({*(one.number for one in endpoints), *unreadable})
    return [webhook_partition(redis, number) for number in numbers]


def examine_safety(safety: Safety) -> list[Finding]:
    """Return the problems of Redis's own configuration, which only its administrator can fix."""
    found = [Finding("redis", danger.what, 1, False, danger.advice) for danger in safety.dangers]
    if safety.unchecked:
        words = f"{', '.join(safety.unchecked)}: INFO does not say, and CONFIG GET is refused or missing"
        found.append(
            Finding("redis", "settings that cannot be checked", len(safety.unchecked), False, words, wrong=False)
        )
    return found


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        rows = [asdict(finding) for finding in report.findings]
        print_json(
            {"healthy": not any(row["wrong"] for row in rows), "findings": rows, "notCompared": report.unreachable}
        )
        return
    if report.findings:
        shown = table(("channel", "found", "how many", "repaired", "more"), whole=("channel",))
        for one in report.findings:
            repaired = ("yes" if one.repaired else "no") if one.wrong else "-"
            shown.add_row(one.channel, one.what, str(one.count), repaired, one.detail)
        _console.print(shown)
    else:
        _console.print("Nothing is wrong.")
    if report.unreachable:
        what = "so the log was not compared with the queue; set --url to the logger's URL"
        complain("doctor", [report.unreachable, what])
