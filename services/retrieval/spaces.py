"""Several embedding spaces in one process: each request is answered by the parts of one space.

The user's vector, the index and the user tower of an answer are always of the same space: they are chosen together,
once per request. All pages of a list use the space of the first page.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from nearline.sequences import UserSequence
from services.retrieval.pages import PageTokens
from services.retrieval.recommender import Recommender
from services.retrieval.request import RecommendRequest
from services.retrieval.sessions import Sessions

Choose = Callable[[str, RecommendRequest], int]  # user id (of a session: its request id), request -> number of a space


class Answering(Protocol):
    """Answers requests for recommendations: a ``Recommender``, or several behind a ``SpaceSwitch``."""

    async def answer(self, user_id: str, request: RecommendRequest, request_id: str) -> bytes:
        """The answer as JSON; ``BadInput`` if *request* names something that does not exist."""


class AnsweringSessions(Protocol):
    """Answers anonymous sessions: ``Sessions`` of one space, or of several behind a ``SessionSwitch``."""

    now_ms: Callable[[], int]

    async def answer(self, session: UserSequence, request: RecommendRequest, request_id: str) -> bytes:
        """The answer as JSON."""


class SpaceSwitch:
    """Answers each request in the space that *choose* returns; ``KeyError`` if that space is not served."""

    def __init__(self, recommenders: Mapping[int, Recommender], choose: Choose, pages: PageTokens) -> None:
        self._recommenders = recommenders
        self._choose = choose
        self._pages = pages

    async def answer(self, user_id: str, request: RecommendRequest, request_id: str) -> bytes:
        """The answer as JSON, of one space."""
        begun = None if request.page is None else self._pages.space_of(request.page)
        number = begun if begun in self._recommenders else self._choose(user_id, request)
        assert number is not None
        return await self._recommenders[number].answer(user_id, request, request_id)


class SessionSwitch:
    """Answers each session in the space that *choose* returns for its request id."""

    def __init__(self, sessions: Mapping[int, Sessions], choose: Choose) -> None:
        self._sessions = sessions
        self._choose = choose
        self.now_ms = next(iter(sessions.values())).now_ms

    async def answer(self, session: UserSequence, request: RecommendRequest, request_id: str) -> bytes:
        """The answer as JSON, of one space: its tower, its item vectors, its index."""
        return await self._sessions[self._choose(request_id, request)].answer(session, request, request_id)
