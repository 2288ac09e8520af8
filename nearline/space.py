"""The embedding space: an integer that user and item vectors must share to be compared."""

from dataclasses import dataclass

from nearline.errors import Misconfigured, SpaceMismatch


@dataclass(frozen=True, slots=True)
class Space:
    """Space *number*: Triton version *number* of both towers, its item-vector topic and its user documents."""

    number: int
    dimension: int

    def __post_init__(self) -> None:
        """Refuse an invalid number or dimension."""
        if self.number < 1:
            raise Misconfigured(f"an embedding space is numbered from 1, came {self.number}")
        if not 1 <= self.dimension <= 4096:
            raise Misconfigured(f"an embedding has 1-4096 dimensions, came {self.dimension}")

    def check(self, what: str, *, number: int, dimension: int) -> None:
        """Raise ``SpaceMismatch`` with both numbers unless *what* belongs to this space."""
        if number != self.number:
            raise SpaceMismatch(f"{what} is of space {number}; this process serves space {self.number}")
        if dimension != self.dimension:
            raise SpaceMismatch(f"{what} has {dimension} dimensions; space {self.number} has {self.dimension}")
