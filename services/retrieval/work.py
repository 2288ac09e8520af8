"""One answer in the making: all that its stages look at, and what they note down."""

from dataclasses import dataclass, field

from nearline.user_documents import NO_HASHES, Hashes, UserDocument
from services.retrieval.answer import Course
from services.retrieval.asked import Asked
from services.retrieval.budget import Budget
from services.retrieval.ruling import Ruling


@dataclass(slots=True)
class Work:
    """What *asked* wants, for the user of *document*; *served* are hashes of what earlier pages held.

    Stages note in *course* what they leave out once *budget* is spent; without a budget there is time for everything.
    """

    asked: Asked
    document: UserDocument | None = None
    served: Hashes = field(default_factory=lambda: NO_HASHES)
    ruling: Ruling | None = None
    course: Course = field(default_factory=Course)
    budget: Budget | None = None

    @property
    def is_late(self) -> bool:
        """Whether the budget is spent."""
        return self.budget is not None and self.budget.is_spent

    @property
    def is_shaped(self) -> bool:
        """Whether more candidates have to be looked at than there are places."""
        return self.asked.is_shaped or (self.ruling is not None and self.ruling.is_weighing)
