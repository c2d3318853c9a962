"""Questions with one answer: a task, its history, all tasks, backends, queues.

The one rule: one request is one answer; what is printed as JSON are the api's own bytes.
"""

import contextlib
from collections.abc import Mapping
from urllib.parse import urlencode

import click
import msgspec

from schemas.task import FINAL, Status
from services.cli import filtering, results, show, tables, timings
from services.cli.client import API, Api, Json, connected, task_path
from services.cli.failures import Exit
from services.cli.running import say


async def get(
    url: str, task_id: str, output: str | None, then: Mapping[str, str], *, as_json: bool
) -> Exit:
    """Show a task, or fetch its result."""
    if output is not None:
        results.check(output, 1, as_json=as_json)
    async with connected(url, say) as api:
        content = await api.get(task_path(task_id), then)
        document = api.decoded(content)
        if as_json:
            click.echo(content)
        if output is not None:
            return await _fetch(api, document, output)
        if not as_json:
            click.echo("\n".join(show.summary(document, api.url, tables.now_for_people())))
    return Exit.DONE


async def _fetch(api: Api, document: Json, output: str) -> Exit:
    if document["status"] in FINAL - {Status.DONE}:
        say(show.outcome(document))
        return Exit.TASK
    for name in await results.fetch(api, document, output):
        say(f"wrote {name}")
    return Exit.DONE


async def history(url: str, task_id: str, then: Mapping[str, str], *, as_json: bool) -> None:
    """Show what happened to a task, with the time since its submission, and its attempts."""
    async with connected(url, say) as api:
        path, after = task_path(task_id, "/events"), 0
        events: list[Json] = []
        while True:
            page = await api.json(path, {"last_event_id": str(after), **then})
            events += page["events"]
            if page["next"] is None:
                break
            after = page["next"]
        if as_json:
            click.echo(msgspec.json.encode({"events": events, "next": None}))
            return
        document = await api.json(task_path(task_id), then)
    tables.printed(show.HISTORY, show.history_rows(events), "no events")
    if attempts := timings.rows(document, None if then else tables.now_for_people()):
        click.echo()
        tables.printed(timings.ATTEMPTS, attempts, "")
    if then:
        click.echo(f"\n{show.stood(document)}")


async def dead(url: str, query: Mapping[str, str], *, as_json: bool) -> None:
    """List dead letters, newest first."""
    async with connected(url, say) as api:
        content = await api.get(f"{API}/tasks", {"status": Status.FAILED, **query})
    page = api.decoded(content)
    if as_json:
        click.echo(content)
        return
    now = tables.now_for_people()
    tables.printed(
        show.DEAD, [show.dead_row(document, now) for document in page["tasks"]], "no dead letters"
    )
    if page["next"]:
        say(f"there are more: --cursor {page['next']}")


async def tasks(url: str, query: Mapping[str, str], *, follow: bool, as_json: bool) -> None:
    """List tasks, newest first, and go on with what happens to them."""
    async with connected(url, say) as api:
        content = await api.get(f"{API}/tasks", query)
        page = api.decoded(content)
        found: list[Json] = page["tasks"]
        if as_json and not follow:
            click.echo(content)
        elif as_json:
            for document in found:
                click.echo(msgspec.json.encode(document))
        else:
            now = tables.now_for_people()
            tables.printed(show.TASKS, [show.task_row(document, now) for document in found], "no tasks")
            if page["next"] and not follow:
                say(f"there are more: --cursor {page['next']}")
            if page["prev"] and not follow:
                say(f"there are newer ones: --cursor {page['prev']}")
        if follow:
            await _follow(api, found, query, as_json=as_json)


async def counts(url: str, query: Mapping[str, str], *, as_json: bool) -> None:
    """Count the tasks of each kind in each status."""
    async with connected(url, say) as api:
        content = await api.get(f"{API}/tasks/counts", query)
    if as_json:
        click.echo(content)
    else:
        rows = [show.counts_row(found) for found in api.decoded(content)["counts"]]
        tables.printed(show.COUNTS, rows, "no tasks")


async def _follow(api: Api, found: list[Json], query: Mapping[str, str], *, as_json: bool) -> None:
    """Print changes. What came after the newest shown is not in the list, so the stream begins there."""
    after = max((document["sequence"] for document in found), default=None)
    asked = urlencode({name: query[name] for name in filtering.MEMBERS if name in query})
    async with contextlib.aclosing(api.follow(f"{API}/events?{asked}", after)) as frames:
        async for frame in frames:
            if frame.event != show.PROGRESS:
                click.echo(frame.data if as_json else show.event_line(api.decoded(frame.data)))


async def backends(url: str, *, as_json: bool) -> None:
    """List the GPUs."""
    async with connected(url, say) as api:
        content = await api.get(f"{API}/backends")
    if as_json:
        click.echo(content)
    else:
        rows = [show.backend_row(backend) for backend in api.decoded(content)["backends"]]
        tables.printed(show.BACKENDS, rows, "no backends; set IMAGE_GEN_URL_1 or WHISPER_URL, or add one")


async def queues(url: str, then: Mapping[str, str], *, as_json: bool) -> None:
    """List the queues."""
    async with connected(url, say) as api:
        content = await api.get(f"{API}/queues", then)
    if as_json:
        click.echo(content)
    elif then:
        rows = [show.past_queue_row(queue) for queue in api.decoded(content)["queues"]]
        tables.printed(show.PAST_QUEUES, rows, "no queues: nothing waited and nothing ran")
    else:
        now = tables.now_for_people()
        rows = [show.queue_row(queue, now) for queue in api.decoded(content)["queues"]]
        tables.printed(show.QUEUES, rows, "no queues: nothing has been submitted yet")
