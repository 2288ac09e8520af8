"""The demo's user and click are picked by a rule that can be followed on paper."""

from local.demo import unmet
from local.story import climbers, moves, stories
from nearline.events import Event
from nearline.items import Item

BAGS = [f"bag{n}" for n in range(12)]
ITEMS = {
    **{item_id: Item(item_id, category="bags") for item_id in BAGS},
    "clock": Item("a clock", category="clocks"),
    "lamp": Item("a lamp", category="lamps"),
    "thing": Item("a thing", category="other"),
}


def purchases(user_id: str, *item_ids: str) -> list[tuple[str, str]]:
    return [(user_id, item_id) for item_id in item_ids]


def test_the_user_has_one_taste_and_the_click_is_the_best_seller_outside_it() -> None:
    crowd = purchases("a", "thing", "thing", "thing", "clock", "clock", "lamp")
    (story,) = stories([*crowd, *purchases("fan", *BAGS)], ITEMS)
    assert (story.user_id, story.taste, story.share, story.clicked) == ("fan", "bags", 1.0, "clock")


def test_a_category_that_the_user_knows_is_nothing_else() -> None:
    crowd = purchases("a", "clock", "clock", "lamp")
    (story,) = stories([*crowd, *purchases("fan", *BAGS, "clock")], ITEMS)
    assert story.clicked == "lamp"


def test_the_one_sided_come_first() -> None:
    told = stories([*purchases("mixed", *BAGS, "clock"), *purchases("pure", *BAGS), *purchases("x", "lamp")], ITEMS)
    assert [story.user_id for story in told] == ["pure", "mixed"]


def test_a_short_history_is_no_taste() -> None:
    assert stories([*purchases("new", *BAGS[:11]), *purchases("x", "lamp")], ITEMS) == []


def test_what_was_bought_twice_counts_once() -> None:
    assert stories([*purchases("again", *BAGS[:11], BAGS[0]), *purchases("x", "lamp")], ITEMS) == []


def test_moves_are_told_as_ranks() -> None:
    assert moves(["a", "b", "c"], ["c", "x", "b", "a"]) == ["+2", "new", "-1", "-3"]
    assert moves(["a"], ["a"]) == ["="]


def test_climbers_are_those_that_rose_most_in_the_order_of_the_answer() -> None:
    assert climbers(["=", "+2", "-7", "+9", "new", "+1"], most=3) == [1, 3, 4]
    assert climbers(["=", "-1"]) == []


CLICK = Event("e2", "u", "clicked", "click", 2)


def answer(event_id: str, version: int, **scores: float) -> dict[str, object]:
    items = [{"item_id": item_id, "score": score, "source": "personal"} for item_id, score in scores.items()]
    return {"newest_event_id": event_id, "history_version": version, "degraded": False, "items": items}


def test_an_answer_that_used_the_click_has_nothing_unmet() -> None:
    assert unmet(answer("e1", 1, a=0.5, clicked=0.4), answer("e2", 2, a=0.6, b=0.4), CLICK) == []


def test_every_promise_that_is_broken_is_named() -> None:
    same = answer("e1", 1, a=0.5, clicked=0.4)
    assert len(unmet(same, same, CLICK)) == 4
    assert unmet(same, answer("e2", 2, a=0.6, clicked=0.4), CLICK) == ["the clicked item is still recommended"]
