"""Every item index, one contract: the catalogue of this process with its real graph, and Milvus (on milvus-lite).

Milvus runs in an environment of its own: ``make test-milvus``. What milvus-lite cannot show (consistency between
replicas, shards, its indexes of arrays) is not shown here.
"""

import asyncio
import contextlib
import importlib.util
import operator
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from nearline.adapters.hnsw import HnswGraph
from nearline.adapters.indexes import engine_for
from nearline.errors import BadInput, Misconfigured, SpaceMismatch, Unavailable
from nearline.filters import AllOf, AnyOf, Compared, Filter, Missing, Node, Not, Same, Value, parse
from nearline.hashing import hash64
from nearline.item_engine import ItemEngine
from nearline.item_vectors import ItemFields, ItemVector
from nearline.space import Space
from services.retrieval.in_engine.guard import GuardedEngine
from services.retrieval.in_engine.head_items import HeadItems
from services.retrieval.in_engine.items import EngineItems
from services.retrieval.in_engine.rows import row_of
from services.retrieval.in_engine.writer import Writer
from services.retrieval.in_process.catalogue import Catalogue
from services.retrieval.in_process.index import LiveIndex
from services.retrieval.items.interface import Candidates, ItemIndex
from services.retrieval.items.popularity import Leaderboard
from tests.support.fakes import FakeEngine, ScriptedReader

T = TypeVar("T")
DIMENSION = 8
NOTHING: NDArray[np.uint64] = np.empty(0, np.uint64)


class Shop(Protocol):
    """An index, and how items get into it."""

    @property
    def index(self) -> ItemIndex: ...

    def run(self, work: Awaitable[T]) -> T: ...
    def put(self, item: ItemVector) -> None: ...
    def purge(self, item_id: str) -> None: ...


class InProcess:
    """The catalogue, over hnswlib."""

    def __init__(self) -> None:
        self.index = Catalogue(DIMENSION, LiveIndex(DIMENSION, lambda capacity: HnswGraph(DIMENSION, capacity)))

    def run(self, work: Awaitable[T]) -> T:
        return asyncio.run(awaited(work))

    def put(self, item: ItemVector) -> None:
        self.index.apply(item)

    def purge(self, item_id: str) -> None:
        self.index.purge(item_id)


class OnEngine:
    """An engine, a window and the writer of both, as in_engine/remote_items.py puts them together."""

    def __init__(self, engine: Any, runner: asyncio.Runner) -> None:
        self.engine = engine
        self._runner = runner
        self.guard = GuardedEngine(engine)
        self.window = HeadItems(engine, lambda: 2_000)
        self.index = EngineItems(engine, self.guard, self.window)
        self._writer = Writer(Space(1, DIMENSION), ScriptedReader, engine, self.window)
        self.written: set[str] = set()
        self.run(self.guard.probe())

    def run(self, work: Awaitable[T]) -> T:
        return self._runner.run(awaited(work))

    def put(self, item: ItemVector) -> None:
        on_show = item.candidate is not None and item.shown.available
        change = row_of(item, item.candidate, DIMENSION) if on_show else item.version  # type: ignore[arg-type]
        self.written.add(item.item_id)
        self.run(self._writer.write({item.item_id: change}))

    def purge(self, item_id: str) -> None:
        self.run(self._writer.write({item_id: None}))


async def awaited(work: Awaitable[T]) -> T:
    return await work


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as running:
        yield running


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"milvus://{tmp_path_factory.mktemp('milvus')}/items.db"


@pytest.fixture(scope="module")
def engine(address: str, runner: asyncio.Runner) -> Iterator[ItemEngine]:
    """Space 1 of a milvus-lite; made once, for it waits a second and a half for its indexes."""
    opened = engine_at(address, Space(1, DIMENSION))
    yield opened
    runner.run(opened.close())


@pytest.fixture
def milvus(engine: ItemEngine, runner: asyncio.Runner) -> Iterator[OnEngine]:
    """An empty one."""
    shop = OnEngine(engine, runner)
    yield shop
    runner.run(engine.forget(sorted(shop.written)))
    assert runner.run(engine.count("")) == 0


def engine_at(address: str, space: Space) -> ItemEngine:
    pytest.importorskip("pymilvus", reason="Milvus has an environment of its own: make test-milvus")
    engine = engine_for(address, space, read_ms=10_000)
    assert engine is not None
    return engine


INSTALLED = importlib.util.find_spec("pymilvus") is not None


@pytest.fixture(params=["catalogue", "fake", *["milvus"] * INSTALLED])
def shop(request: pytest.FixtureRequest, runner: asyncio.Runner) -> Shop:
    if request.param == "catalogue":
        return InProcess()
    if request.param == "fake":
        return OnEngine(FakeEngine(Space(1, DIMENSION)), runner)
    found: Shop = request.getfixturevalue("milvus")
    return found


def at(angle: float) -> NDArray[np.float32]:
    """A unit vector; the smaller the angle, the nearer to ``at(0)``."""
    return np.array([np.cos(angle), np.sin(angle), *[0] * (DIMENSION - 2)], np.float32)


def item(item_id: str, angle: float = 0.0, version: int = 1, **shown: Any) -> ItemVector:
    return ItemVector(
        item_id, version, ItemFields(**({"title": "T"} | shown)), at(angle), at(angle).astype(np.float16), "d"
    )


def hashes(*item_ids: str) -> NDArray[np.uint64]:
    return np.array(sorted(map(hash64, item_ids)), np.uint64)


def ids_of(picked: Candidates) -> list[str]:
    """The ids of an answer, which are also what it prints."""
    printed = [orjson.loads(each[1:] + b"0}")["item_id"] for each in picked.printed]
    assert printed == picked.item_ids
    assert len(picked.scores) == len(picked.item_ids)
    return picked.item_ids


def nearest(
    shop: Shop, k: int = 10, excluded: NDArray[np.uint64] = NOTHING, wanted: str | None = None, angle: float = 0.0
) -> list[str]:
    found = shop.run(shop.index.nearest(at(angle), k, excluded, None if wanted is None else parse(wanted)))
    assert sorted(found.scores, reverse=True) == list(found.scores)
    return ids_of(found)


def pick(shop: Shop, ids: str | list[str], places: int, **named: Any) -> list[str]:
    given: dict[str, Any] = {"taken": (), "excluded": NOTHING, "filter": None} | named
    ranked, scores = Leaderboard(), {item_id: 99.0 - nth for nth, item_id in enumerate(ids)}
    for item_id, score in scores.items():
        ranked.put(item_id, score)
    found = shop.run(shop.index.pick(ranked, places, **given))
    assert [scores[item_id] for item_id in found.item_ids] == list(found.scores)
    return ids_of(found)


# --- available items ---


def test_an_empty_index_returns_nothing(shop: Shop) -> None:
    assert nearest(shop) == []
    assert pick(shop, "ab", 2) == []


def test_an_item_is_found_by_the_next_search_nearest_first_with_its_inner_product(shop: Shop) -> None:
    for nth, item_id in enumerate("cab"):
        shop.put(item(item_id, 0.1 * nth))
    assert nearest(shop) == ["c", "a", "b"]
    found = shop.run(shop.index.nearest(at(0), 1, NOTHING, None))
    assert found.scores[0] == pytest.approx(1.0, abs=1e-6)


def test_an_update_changes_the_vector_and_the_rendered_item(shop: Shop) -> None:
    shop.put(item("a", 0.0))
    shop.put(item("b", 0.1))
    shop.put(item("a", 0.2, version=2, title="Another", attributes={"colour": "red"}))
    assert nearest(shop) == ["b", "a"]
    printed = orjson.loads(shop.run(shop.index.nearest(at(0.2), 1, NOTHING, None)).printed[0][1:] + b"0}")
    assert (printed["title"], printed["attributes"]) == ("Another", {"colour": "red"})


@pytest.mark.parametrize(
    "gone",
    [
        lambda: replace(item("a", version=2), candidate=None, retired_ms=5),
        lambda: item("a", version=2, available=False),
    ],
    ids=["retired", "unavailable"],
)
def test_a_withdrawn_item_is_in_no_later_result(shop: Shop, gone: Callable[[], ItemVector]) -> None:
    shop.put(item("a"))
    shop.put(item("b", 0.1))
    shop.put(gone())
    assert nearest(shop) == ["b"]
    assert pick(shop, "ab", 2) == ["b"]
    shop.put(item("a", version=1))
    assert nearest(shop) == ["b"], "an older record brought it back"
    shop.put(item("a", version=3))
    assert nearest(shop) == ["a", "b"]


def test_a_purged_item_is_gone_and_may_come_anew(shop: Shop) -> None:
    shop.put(item("a", version=7))
    shop.purge("a")
    assert nearest(shop) == []
    assert pick(shop, "a", 1) == []
    shop.put(item("a", version=1))
    assert nearest(shop) == ["a"]


def test_an_older_version_changes_nothing(shop: Shop) -> None:
    shop.put(item("a", 0.5, version=5, title="new"))
    shop.put(item("b", 0.2))
    shop.put(item("a", 0.0, version=4, title="old"))
    assert nearest(shop) == ["b", "a"]
    assert b'"new"' in shop.run(shop.index.nearest(at(0.5), 1, NOTHING, None)).printed[0]


def test_of_two_changes_with_one_version_the_later_counts(shop: Shop) -> None:
    """They were appended in one millisecond."""
    shop.put(item("a", 0.5, version=5, title="first"))
    shop.put(item("a", 0.5, version=5, title="second"))
    assert b'"second"' in shop.run(shop.index.nearest(at(0.5), 1, NOTHING, None)).printed[0]
    shop.put(replace(item("a", version=5), candidate=None, retired_ms=5))
    assert nearest(shop) == []


# --- what is asked for ---


def test_asking_for_more_items_than_exist_returns_all(shop: Shop) -> None:
    for nth in range(30):
        shop.put(item(f"i{nth:02}", nth * 0.02))
    assert nearest(shop, 500) == [f"i{nth:02}" for nth in range(30)]


def test_excluded_items_are_left_out_and_k_others_come_instead(shop: Shop) -> None:
    for nth in range(120):
        shop.put(item(f"i{nth:03}", nth * 0.01))
    seen = [f"i{nth:03}" for nth in range(100)]
    assert nearest(shop, 5, hashes(*seen[:3])) == [f"i{nth:03}" for nth in range(3, 8)]
    assert nearest(shop, 5, hashes(*seen)) == [f"i{nth:03}" for nth in range(100, 105)]
    assert nearest(shop, 50, hashes(*seen)) == [f"i{nth:03}" for nth in range(100, 120)]


def test_picked_items_keep_their_order_and_forbidden_ones_are_left_out(shop: Shop) -> None:
    for nth, item_id in enumerate("abcdef"):
        shop.put(item(item_id, 0.1 * nth))
    assert pick(shop, "fxbac", 3) == ["f", "b", "a"]
    assert pick(shop, "fbac", 3, taken={"b"}) == ["f", "a", "c"]
    assert pick(shop, "fbac", 3, excluded=hashes("f", "a")) == ["b", "c"]
    assert pick(shop, "fb", 0) == []


def test_the_index_returns_the_vectors_of_available_items(shop: Shop) -> None:
    for nth, item_id in enumerate("abc"):
        shop.put(item(item_id, 0.1 * nth))
    shop.put(item("c", 0.2, version=2, available=False))
    shop.put(item("b", 0.5, version=2))
    found = shop.run(shop.index.vectors(["b", "x", "a", "c", '"']))
    assert sorted(found) == ["a", "b"]
    np.testing.assert_allclose(found["a"], at(0), atol=1e-6)
    np.testing.assert_allclose(found["b"], at(0.5), atol=1e-6)
    assert found["b"].dtype == np.float32
    assert shop.run(shop.index.vectors([])) == {}


def test_item_ids_may_hold_any_characters(shop: Shop) -> None:
    odd = ['"', "'", "\\", '\\"', "a\\'b", "x' or item_id != '", '"] or true', "{x}", "%", "ü€😀", " ", "é" * 64]
    for nth, item_id in enumerate(odd):
        shop.put(item(item_id, 0.05 * nth))
    assert nearest(shop, 20) == odd
    assert nearest(shop, 20, hashes(*odd[:5])) == odd[5:]
    assert sorted(pick(shop, odd, 20)) == sorted(odd)
    for item_id in odd[::2]:
        shop.purge(item_id)
    assert nearest(shop, 20) == odd[1::2]


def test_64_attributes_are_printed_as_they_came(shop: Shop) -> None:
    attributes = {f'name "{nth}"': [nth, nth / 7, f"text\n'{nth}'", nth % 2 == 0][nth % 4] for nth in range(64)}
    shop.put(item("a", attributes=attributes))
    printed = shop.run(shop.index.nearest(at(0), 1, NOTHING, None)).printed[0]
    assert orjson.loads(printed[1:] + b"0}")["attributes"] == attributes


def test_a_vector_of_another_dimension_is_refused_with_both_numbers(shop: Shop) -> None:
    shop.put(item("a"))
    with pytest.raises(SpaceMismatch, match=r"'b'.* 9 dimensions.* 8"):
        shop.put(replace(item("b"), candidate=np.ones(9, np.float32)))
    assert nearest(shop) == ["a"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_refused(shop: Shop, bad: float) -> None:
    shop.put(item("a", 0.3))
    with pytest.raises(BadInput, match="not finite"):
        shop.put(replace(item("a", version=2), candidate=np.full(DIMENSION, bad, np.float32)))
    assert nearest(shop) == ["a"]


# --- filters ---

ODD_TEXT = 'it\'s "5" \\ {x} ü\n" or 1 == 1'
FIELDS: list[dict[str, Any]] = [
    {},
    {"category": "mugs", "price": 5.0, "brand": "A", "locale": "de", "listed_ms": 1_700_000_000_000},
    {"category": "mugs", "price": 20.0, "brand": "B", "attributes": {"size": 5, "red": True, "colour": "red"}},
    {"category": "lamps", "price": 0.0, "attributes": {"size": 5.0, "red": False, "colour": ""}},
    {"category": "lamps", "brand": "A", "attributes": {"size": "5", "red": 1, "colour": "blue"}},
    {"category": ODD_TEXT, "brand": "price", "attributes": {"size": -1e300, "a b": ODD_TEXT, "colour": "5.0"}},
    {"category": "Mugs", "price": 19.99, "listed_ms": 1_700_000_000_001, "attributes": {"size": 1e300, "a b": 0}},
    {"category": "mugs ", "price": 1e12, "attributes": {"size": 0, "size.x": 7, "": "empty", "red": "true"}},
    {"category": "5", "price": 0.1, "attributes": {"size": -0.0, "SIZE": 5, "null": "null", "price": 3}},
]
QUOTED = orjson.dumps(ODD_TEXT).decode()
EXPRESSIONS = [
    'category = "mugs"',
    'category != "mugs"',
    'category in ("mugs", "lamps")',
    'category not in ("mugs", "lamps")',
    f"category = {QUOTED}",
    f"not category = {QUOTED}",
    f'attributes."a b" = {QUOTED}',
    'category = ""',
    "category is missing",
    "category is not missing",
    'brand = "price" or brand is missing',
    'locale = "de"',
    "price < 20",
    "price <= 20",
    "price > 19.99",
    "price >= 19.99",
    "not price < 20",
    "not price >= 0.1",
    "price = 5",
    "price in (5, 0, 1e12)",
    "price not in (5, 0)",
    "price is missing",
    "price is not missing",
    "price = 0",
    "price > -1e300",
    "listed_ms >= 1700000000001",
    "listed_ms < 1700000000001",
    "not listed_ms = 1700000000000",
    "attributes.size = 5",
    'attributes.size = "5"',
    "attributes.size != 5",
    "attributes.size < 5",
    "attributes.size >= 5",
    "not attributes.size < 5",
    "not attributes.size >= 5",
    "attributes.size > -1e301",
    "attributes.size = 0",
    "attributes.size = -0.0",
    "attributes.size is missing",
    'attributes."size.x" > 6',
    "attributes.SIZE = 5",
    "attributes.red = true",
    "attributes.red = false",
    "attributes.red != true",
    "attributes.red = 1",
    'attributes.red = "true"',
    "attributes.red in (true, 1)",
    'attributes.colour = "red"',
    'attributes.colour != "red"',
    'attributes.colour = ""',
    "attributes.colour is missing",
    "attributes.colour is not missing",
    'attributes."" = "empty"',
    'attributes.null = "null"',
    "attributes.price = 3",
    'not (category = "mugs" or price < 20)',
    'not (category = "mugs" and not (price < 20 and attributes.size = 5))',
    '(category = "mugs" or attributes.size < 0) and not brand = "A"',
    'not not attributes.colour in ("red", "blue", "5.0")',
]


def means(node: Node, fields: dict[str, Any]) -> bool:
    """What a filter means, said once more and without haste."""
    if isinstance(node, Not):
        return not means(node.part, fields)
    if isinstance(node, AllOf | AnyOf):
        return (all if isinstance(node, AllOf) else any)([means(part, fields) for part in node.parts])
    texts = {"category": "", "locale": "", "brand": ""}
    every = texts | {k: v for k, v in fields.items() if k != "attributes"}
    every |= {f"attributes.{name}": value for name, value in fields.get("attributes", {}).items()}
    value = every.get(node.name)
    kind = float if type(value) is int else type(value)
    if isinstance(node, Missing):
        return value in (None, "")
    if isinstance(node, Same):
        return any(type(each) is kind and each == value for each in node.values)
    assert isinstance(node, Compared)
    sign = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}[node.sign]
    return isinstance(value, int | float) and kind is float and bool(sign(value, node.bound))


def filled(shop: Shop) -> Shop:
    for nth, fields in enumerate(FIELDS):
        shop.put(item(f"i{nth}", nth * 0.1, **fields))
    return shop


def passing(wanted: Filter) -> list[str]:
    return [f"i{nth}" for nth, fields in enumerate(FIELDS) if means(wanted.node, fields)]


def test_every_filter_means_the_same_wherever_items_are(shop: Shop) -> None:
    filled(shop)
    everything = [f"i{nth}" for nth in range(len(FIELDS))]
    for expression in EXPRESSIONS:
        expected = passing(parse(expression))
        assert nearest(shop, 20, wanted=expression) == expected, expression
        assert pick(shop, everything, 20, filter=parse(expression)) == expected, expression
    assert {len(passing(parse(expression))) for expression in EXPRESSIONS} > {1, 2, 3, 4}, "the table says little"


NAMES = ["category", "locale", "brand", "price", "listed_ms"]
NAMES += [f"attributes.{name}" for name in ("size", "red", "colour", "a b", "size.x", "", "SIZE", "price", "nobody's")]
VALUES: list[Value] = ["mugs", "lamps", "", "5", "A", "red", ODD_TEXT, 5.0, 0.0, 1.0, 7.0, 19.99, 1e300, True, False]


def drawn(draw: random.Random, depth: int) -> Node:
    """A tree of conditions, some of which no parser would let through."""
    kind = draw.choice(["same", "compared", "missing", *["not", "all", "any"] * (depth > 0)])
    name = draw.choice(NAMES)
    if kind in ("all", "any"):
        parts = tuple(drawn(draw, depth - 1) for _ in range(draw.randint(2, 3)))
        return AllOf(parts) if kind == "all" else AnyOf(parts)
    if kind == "not":
        return Not(drawn(draw, depth - 1))
    if kind == "same":
        return Same(name, tuple(draw.sample(VALUES, draw.randint(1, 3))))
    number = draw.choice([value for value in VALUES if isinstance(value, float)])
    return Missing(name) if kind == "missing" else Compared(name, draw.choice(["<", "<=", ">", ">="]), number)


def test_any_tree_of_conditions_means_the_same_wherever_items_are(shop: Shop) -> None:
    filled(shop)
    draw = random.Random(5)
    sizes = set()
    for _ in range(200):
        node = drawn(draw, 3)
        wanted = Filter("", node, repr(node), ())
        expected = passing(wanted)
        found = shop.run(shop.index.nearest(at(0), 20, NOTHING, wanted))
        assert found.item_ids == expected, node
        sizes.add(len(expected))
    assert len(sizes) > 5, "the trees say little"


def test_filtered_out_and_seen_items_are_both_left_out(shop: Shop) -> None:
    filled(shop)
    found = passing(parse("price >= 0"))
    seen = hashes(found[0], *[f"other{nth}" for nth in range(50)])
    assert nearest(shop, 3, seen, "price >= 0") == found[1:4]


def test_filters_use_the_current_version_of_an_item(shop: Shop) -> None:
    filled(shop)
    shop.put(item("i0", 0.0, version=2, category="mugs", price=5.0))
    assert nearest(shop, 1, wanted='category = "mugs"') == ["i0"]
    shop.put(item("i0", 0.0, version=3, category="lamps"))
    assert "i0" not in nearest(shop, 20, wanted='category = "mugs"')


# --- Milvus alone ---


def test_a_collection_of_another_dimension_is_refused_with_both_numbers(milvus: OnEngine, address: str) -> None:
    other = engine_at(address, Space(1, DIMENSION + 1))
    with pytest.raises(SpaceMismatch, match=r"has 8 dimensions; space 1 has 9"):
        milvus.run(other.open())
    milvus.run(other.close())


def test_a_collection_without_its_index_gets_one(address: str, runner: asyncio.Runner) -> None:
    """It died between the collection and its index, without which a server loads nothing (milvus-lite does)."""
    space = Space(2, DIMENSION)
    first = OnEngine(engine_at(address, space), runner)
    client = milvus_adapter().MilvusClient(address.removeprefix("milvus://"))
    client.release_collection("nearline_items_2")
    client.drop_index("nearline_items_2", "vector")
    assert client.list_indexes("nearline_items_2", field_name="vector") == []
    second = OnEngine(engine_at(address, space), runner)
    assert len(client.list_indexes("nearline_items_2", field_name="vector")) == 1
    client.close()
    second.put(item("a"))
    assert nearest(second) == ["a"]
    for shop in (first, second):
        runner.run(shop.engine.close())


def test_the_alias_is_pointed_at_a_space_in_one_step_and_says_which(milvus: OnEngine) -> None:
    milvus.run(milvus.engine.make_live())
    assert milvus.run(milvus.engine.live()) == 1


def test_two_replicas_open_one_space(milvus: OnEngine, address: str) -> None:
    """The second finds what the first made, and each sees at once what the other wrote."""
    engine = engine_at(address, Space(1, DIMENSION))
    second = OnEngine(engine, milvus._runner)
    milvus.put(item("a"))
    assert nearest(second) == ["a"]
    second.put(item("a", version=2, available=False))
    assert nearest(milvus) == []
    milvus.run(second.engine.close())


def test_the_window_learns_what_is_popular_and_new_and_forgets_what_another_replica_withdrew(milvus: OnEngine) -> None:
    for nth, item_id in enumerate("abcd"):
        milvus.put(item(item_id, 0.1 * nth, category="mugs", listed_ms=1_000 + nth))
    fresh = HeadItems(milvus.engine, lambda: 2_000, popular=2, newest=2)
    for item_id, score in {"a": 1.0, "b": 3.0, "c": 2.0, "gone": 9.0}.items():
        fresh.score(item_id, score)
    fresh.unscore("gone")
    fresh.score("c", 2.0)
    milvus.run(fresh.refresh())
    milvus.run(fresh.find_newest())
    assert [item_id for item_id, _ in fresh.trending.top()] == ["b", "c"]
    assert [item_id for item_id, _ in fresh.newest] == ["d", "c"]
    milvus.put(item("b", version=2, available=False))
    milvus.run(fresh.refresh())
    assert [item_id for item_id, _ in fresh.trending.top()] == ["c"]


def test_an_address_says_where_milvus_is_and_how_it_is_asked() -> None:
    parse_address = milvus_adapter().parse_address
    said = parse_address("milvuss://us%40er:p%2Fw@milvus:1953/shop?consistency=bounded&width=8&shards=2&replicas=3")
    assert (said.uri, said.token, said.database) == ("https://milvus:1953", "us@er:p/w", "shop")
    assert (said.consistency, said.width, said.shards, said.replicas) == ("Bounded", 8, 2, 3)
    plain = parse_address("milvus://milvus")
    assert (plain.uri, plain.token, plain.consistency) == ("http://milvus:19530", "", "Strong")


@pytest.mark.parametrize("query", ["consistency=none", "width=0", "shards=x", "wide=3"])
def test_an_option_that_is_not_known_is_refused(query: str) -> None:
    with pytest.raises(Misconfigured, match=re.escape(query.partition("=")[0])):
        milvus_adapter().parse_address(f"milvus://user:secret@milvus?{query}")


@pytest.mark.parametrize("url", ["milvus:///", "milvus:///folder/items", "milvus://"])
def test_an_address_without_host_and_file_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured, match=r"milvus:///file\.db"):
        milvus_adapter().parse_address(url)


def milvus_adapter() -> Any:
    pytest.importorskip("pymilvus", reason="Milvus has an environment of its own: make test-milvus")
    from nearline.adapters import milvus

    return milvus


def test_milvus_away_is_unavailable_within_the_deadline_and_the_same_engine_answers_when_it_is_back(
    tmp_path: Path, runner: asyncio.Runner
) -> None:
    """Over gRPC, as a server: it is ended in the middle and started again on the same port."""
    milvus_adapter()
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    server, database, port = start_server_in_thread(str(tmp_path / "a.db"))
    engine = engine_for(f"milvus://127.0.0.1:{port}", Space(1, DIMENSION), read_ms=300)
    assert engine is not None
    shop = OnEngine(engine, runner)
    shop.put(item("a"))
    server.stop(grace=0).wait()
    database.close()
    started = time.monotonic()
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port} does not answer"):
        shop.run(engine.search(at(0), 1, ""))
    assert time.monotonic() - started < 2
    server, database, _ = start_server_in_thread(str(tmp_path / "a.db"), port=port)
    try:
        shop.run(until_answered(engine))
        assert nearest(shop) == ["a"]
    finally:
        runner.run(engine.close())
        server.stop(grace=0).wait()
        database.close()


async def until_answered(engine: ItemEngine) -> None:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(Unavailable):
                await engine.search(at(0), 1, "")
                return
            await asyncio.sleep(0.05)
