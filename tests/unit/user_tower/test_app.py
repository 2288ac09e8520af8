"""When user_tower reads the log from its beginning: the store says whether it has what the group has read."""

from pathlib import Path

import pytest

from nearline.adapters.lmdb import LmdbStore
from nearline.adapters.memory import MemoryStore
from nearline.errors import Unavailable
from nearline.space import Space
from services.user_tower.app import fill

pytestmark = pytest.mark.anyio


class Group:
    """A group's position in the log, which can be away."""

    def __init__(self) -> None:
        self.position = "committed"
        self.down = False

    async def start_over(self) -> None:
        if self.down:
            raise Unavailable("the log is away")
        self.position = "beginning"


async def test_a_new_store_is_filled_from_the_beginning_of_the_log_once(tmp_path: Path) -> None:
    """A store that was deleted because the system went down is a new one (tests/contract/test_store.py)."""
    store, group = LmdbStore(tmp_path, Space(1, 8), ttl_ms=1, writer=True), Group()
    await store.open()
    group.down = True
    with pytest.raises(Unavailable):
        await fill(store, group)
    group.down = False
    await fill(store, group)
    assert group.position == "beginning"
    group.position = "committed"
    await fill(store, group)
    assert group.position == "committed"
    await store.close()


async def test_a_store_that_keeps_its_documents_by_itself_is_read_on() -> None:
    group = Group()
    await fill(MemoryStore(ttl_ms=1), group)
    assert group.position == "committed"
