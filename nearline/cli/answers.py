"""``nearline recommend``: print an answer for people."""

from pathlib import Path
from typing import Annotated, Any, cast
from urllib.parse import quote

import httpx
import typer
from rich.table import Table

from nearline.cli.batch import recommend_all
from nearline.cli.console import console
from nearline.errors import BadInput, Misconfigured, Unavailable
from nearline.key_file import key_file, key_headers
from nearline.settings import Settings, load_settings
from nearline.unreachable import unreachable
from nearline_client import RecommendOptions

_CONNECT_S = 1.5


def recommend(
    user_id: Annotated[str, typer.Argument(help="The user to recommend to; leave out with --all-users.")] = "",
    k: Annotated[int, typer.Option(min=1, max=500)] = 10,
    exclude_seen: Annotated[str, typer.Option(help="all, purchase or none.")] = "all",
    wanted: Annotated[
        str | None, typer.Option("--filter", help="Only items that pass, such as: price < 20 (docs/filters.md).")
    ] = None,
    json: Annotated[bool, typer.Option(help="Print the answer as JSON.")] = False,
    all_users: Annotated[bool, typer.Option("--all-users", help="Answers for all users; needs --to.")] = False,
    to: Annotated[Path | None, typer.Option(help="The Parquet file for all users' answers.")] = None,
    users: Annotated[Path | None, typer.Option(help="Only the users of this file, one id a line.")] = None,
    at_once: Annotated[int, typer.Option(min=1, max=256, help="Concurrent requests with --all-users.")] = 16,
) -> None:
    """Show the current recommendations for USER_ID and the clicks they used, or write all users' to a file."""
    if all_users or users is not None:
        if user_id or to is None:
            raise typer.BadParameter("--all-users (or --users FILE) needs --to FILE and takes no USER_ID")
        options = {"k": k, "exclude_seen": exclude_seen} | ({} if wanted is None else {"filter": wanted})
        count = recommend_all(load_settings(), to, cast("RecommendOptions", options), users=users, at_once=at_once)
        console.print(f"answers for {count:,} users are in {to}")
        return
    if not user_id:
        raise typer.BadParameter("give a USER_ID, or --all-users")
    answer = get_answer(load_settings(), user_id, k=k, exclude_seen=exclude_seen, wanted=wanted)
    if json:
        console.say_json(answer)
        return
    console.print(answer_table(answer))
    console.print(provenance(answer))


def get_answer(
    settings: Settings, user_id: str, *, k: int, exclude_seen: str = "all", wanted: str | None = None
) -> dict:  # type: ignore[type-arg]
    """The answer of ``GET /recommend``; ``Unavailable`` if retrieval is down, ``BadInput`` with its message on a 422.

    ``Misconfigured`` if this machine's key is missing or not accepted.
    """
    params = {"k": k, "exclude_seen": exclude_seen, **({} if wanted is None else {"filter": wanted})}
    return ask(settings, "GET", f"/recommend/{quote(user_id, safe='')}", params=params)


def ask(settings: Settings, method: str, path: str, *, timeout_s: float = 5.0, **what: Any) -> dict[str, Any]:
    """Retrieval's JSON answer; *what* are httpx's arguments. Raises as ``get_answer`` does."""
    base_url = settings.retrieval
    headers = key_headers(settings)
    try:
        timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S))
        response = httpx.request(method, f"{base_url}{path}", headers=headers, timeout=timeout, **what)
    except httpx.HTTPError as error:
        raise unreachable("retrieval", base_url, error) from None
    refuse_unlet_in(settings, response)
    if response.status_code == 422:
        problems = response.json()["detail"]
        raise BadInput("refused", "\n".join(f"{problem['field']}: {problem['problem']}" for problem in problems))
    if response.status_code != 200:
        raise Unavailable(f"retrieval at {base_url} answered {response.status_code}: {response.text:.200}")
    return dict(response.json())


def refuse_unlet_in(settings: Settings, response: httpx.Response) -> None:
    """Raise ``Misconfigured`` if *response* says that the key is missing or lacks the permission."""
    if response.status_code in (401, 403):
        said = response.json()["detail"][0]["problem"]
        whose = "NEARLINE_KEY" if settings.key.get_secret_value() else str(key_file(settings))
        raise Misconfigured(
            f"{response.url.host} says: {said}. The key comes from {whose}; `nearline keys ensure` makes one, "
            "`nearline keys list` shows the keys"
        )


def answer_table(answer: dict, title: str = "") -> Table:  # type: ignore[type-arg]
    """The answer's items, best first."""
    table = Table("", "item", "title", "category", "score", "source", title=title or None)
    for rank, item in enumerate(answer["items"], start=1):
        score = item.get("score")
        table.add_row(
            str(rank),
            item["item_id"],
            item.get("title", ""),
            item.get("category", ""),
            f"{score:.3f}" if score is not None else "",
            item["source"],
        )
    return table


def provenance(answer: dict) -> str:  # type: ignore[type-arg]
    """One line: the space, the history version, its newest event and that event's age, and how long the answer took."""
    age = answer.get("age_ms")
    parts = [
        f"space {answer['space']}",
        f"history version {answer.get('history_version')}",
        f"newest event {answer.get('newest_event_id')}",
        f"{age / 1000:.1f} s old" if age is not None else "no history",
        f"took {answer['took_ms']:.2f} ms",
    ]
    return " · ".join(parts) + (" · DEGRADED" if answer.get("degraded") else "")
