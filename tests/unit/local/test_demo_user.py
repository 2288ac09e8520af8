"""The demo's user and click are picked by a rule that can be followed on paper."""

from local.demo import unmet
from local.demo_user import climbers, demo_users, most_telling, moves
from nearline.events import Event
from nearline.items import Item

BAGS = [f"bag{n}" for n in range(6)]
MUGS = ["mug0", "mug1"]
FAN = [*BAGS, *MUGS]
ITEMS = {
    **{item_id: Item(item_id, category="bags") for item_id in BAGS},
    **{item_id: Item(item_id, category="mugs") for item_id in MUGS},
    "clock": Item("a clock", category="clocks"),
    "lamp": Item("a lamp", category="lamps"),
    "thing": Item("a thing", category="other"),
}


def purchases(user_id: str, *item_ids: str) -> list[tuple[str, str]]:
    return [(user_id, item_id) for item_id in item_ids]


def test_the_user_has_a_taste_and_the_click_lies_outside_all_that_was_bought() -> None:
    (story,) = demo_users([*purchases("a", "thing", "clock", "lamp"), *purchases("fan", *FAN)], ITEMS)
    assert (story.user_id, story.taste, story.share) == ("fan", "bags", 0.75)
    assert story.clicked in ("clock", "lamp")


def test_a_category_that_the_user_knows_is_nothing_else() -> None:
    (story,) = demo_users([*purchases("a", "clock", "lamp"), *purchases("fan", *FAN, "clock")], ITEMS)
    assert story.clicked == "lamp"


def test_an_item_whose_buyers_own_more_of_its_kind_tells_more() -> None:
    items = {**ITEMS, "lamp2": Item("another lamp", category="lamps"), "lamp3": Item("a third", category="lamps")}
    baskets = [["lamp", "lamp2", "lamp3"], ["lamp", "lamp3"], ["clock", "bag1"], ["clock", "bag2", "lamp2"]]
    assert most_telling(["clock", "lamp", "lamp2"], baskets, items) == ["lamp", "lamp2", "clock"]


def test_the_clearest_tastes_come_first_and_a_single_one_is_left_out() -> None:
    clear, mixed, single = purchases("clear", *FAN), purchases("mixed", *FAN, "clock"), purchases("single", *BAGS)
    told = demo_users([*mixed, *clear, *single, *purchases("x", "lamp")], ITEMS)
    assert [story.user_id for story in told] == ["clear", "mixed"]


def test_a_short_history_is_no_taste() -> None:
    assert demo_users([*purchases("new", *FAN[3:]), *purchases("x", "lamp")], ITEMS) == []


def test_an_item_bought_twice_counts_once_in_the_story() -> None:
    assert demo_users([*purchases("again", *FAN[3:], *FAN[3:]), *purchases("x", "lamp")], ITEMS) == []


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


def test_every_unmet_condition_of_the_demo_is_named() -> None:
    same = answer("e1", 1, a=0.5, clicked=0.4)
    assert len(unmet(same, same, CLICK)) == 4
    assert unmet(same, answer("e2", 2, a=0.6, clicked=0.4), CLICK) == ["the clicked item is still recommended"]
