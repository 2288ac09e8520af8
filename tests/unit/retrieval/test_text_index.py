"""Text search: what changed is in the next search, the best words first, and nothing takes for ever."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearline.errors import BadInput, Overloaded, Unavailable
from nearline.item_vectors import ItemFields
from services.retrieval.items.text_index import TextIndex, words_of
from tests.support.properties import examples


@pytest.fixture
def texts() -> Iterator[TextIndex]:
    index = TextIndex()
    yield index
    index.close()


def find(texts: TextIndex, words: str, most: int = 10) -> list[str]:
    full, some = asyncio.run(texts.search(words, most))
    return [item_id for item_id, _ in [*full, *some]]


def test_a_word_of_the_title_counts_most(texts: TextIndex) -> None:
    texts.put("c", ItemFields("Cup", category="lamp"))
    texts.put("a", ItemFields("Cup", attributes={"for": "lamp"}))
    texts.put("t", ItemFields("Lamp"))
    assert find(texts, "lamp") == ["t", "c", "a"]


def test_scores_fall_and_all_words_go_before_some(texts: TextIndex) -> None:
    texts.put("both", ItemFields("a red lamp of a very long name that goes on and on"))
    texts.put("one", ItemFields("red"))
    full, some = asyncio.run(texts.search("red lamp", 10))
    assert [item_id for item_id, _ in full] == ["both"]
    assert [item_id for item_id, _ in some] == ["one"]
    assert asyncio.run(texts.search("red lamp", 1))[1] == [], "nobody asked for more"


def test_an_item_is_found_by_its_newest_words_alone(texts: TextIndex) -> None:
    texts.put("a", ItemFields("Zebra"))
    assert find(texts, "zebra") == ["a"]
    texts.put("a", ItemFields("Lion"))
    assert (find(texts, "zebra"), find(texts, "lion")) == ([], ["a"])
    texts.drop("a")
    texts.drop("never")
    assert find(texts, "lion") == []


def test_a_cleared_index_knows_only_what_came_since(texts: TextIndex) -> None:
    texts.put("a", ItemFields("Zebra"))
    assert find(texts, "zebra") == ["a"]
    texts.clear()
    texts.put("b", ItemFields("Zebra"))
    assert find(texts, "zebra") == ["b"]


def test_more_changes_than_one_write_takes_are_all_in_the_next_search(texts: TextIndex) -> None:
    for nth in range(9_000):
        texts.put(f"i{nth}", ItemFields(f"thing number{nth}"))
    assert find(texts, "number8999") == ["i8999"]
    assert len(find(texts, "thing", 10_000)) == 9_000


changes = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["red", "blue", "", None])), max_size=20)


@examples(40)
@given(changes)
def test_text_search_finds_the_last_version_of_each_item(changes: list[tuple[str, str | None]]) -> None:
    texts = TextIndex()
    last: dict[str, str | None] = {}
    for nth, (item_id, word) in enumerate(changes):
        last[item_id] = word
        if word is None:
            texts.drop(item_id)
        else:
            texts.put(item_id, ItemFields(word))
        if nth % 3 == 0:
            assert sorted(find(texts, "red")) == sorted(each for each, said in last.items() if said == "red")
    assert sorted(find(texts, "blue")) == sorted(each for each, said in last.items() if said == "blue")
    texts.close()


@pytest.mark.parametrize("text", ["", " ", '"*"', "😀", "___"])
def test_a_query_without_letters_or_digits_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="no letter or digit"):
        words_of(text)


def test_a_search_that_takes_too_long_is_ended_and_the_next_one_is_answered() -> None:
    texts = TextIndex(deadline_s=-1.0)
    for nth in range(3_000):
        texts.put(f"i{nth}", ItemFields(f"thing number{nth}"))
    with pytest.raises(Unavailable, match="give more words"):
        find(texts, "thing", 5)
    texts._deadline_s = 10.0
    texts.put("late", ItemFields("zebra"))
    assert find(texts, "zebra") == ["late"], "changes are written whatever happens to searches"
    texts.close()


def test_more_searches_than_may_wait_are_refused_at_once(texts: TextIndex) -> None:
    texts.put("a", ItemFields("lamp"))

    async def at_once() -> list[object]:
        return list(await asyncio.gather(*(texts.search("lamp", 1) for _ in range(100)), return_exceptions=True))

    answers = asyncio.run(at_once())
    refused = [answer for answer in answers if isinstance(answer, Overloaded)]
    assert len(refused) == 36
    assert find(texts, "lamp") == ["a"]
