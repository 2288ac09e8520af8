"""What to say about a query parameter that does not exist: the name that was probably meant, or all there are."""

import difflib
from collections.abc import Iterable

# Names that other APIs use for ours; no spelling leads from one to the other.
_ELSEWHERE = {
    **dict.fromkeys(("n", "num", "number", "count", "limit", "size", "top", "topk", "top_k", "page_size"), "k"),
    **dict.fromkeys(("cursor", "offset", "next_page", "page_token"), "page"),
    **dict.fromkeys(("query", "search", "text", "words"), "q"),
    **dict.fromkeys(("user_id", "uid"), "user"),
}


def meant_by(name: str, known: Iterable[str]) -> str | None:
    """The one of *known* that *name* probably means, or ``None``."""
    names = list(known)
    lower = name.lower()
    if _ELSEWHERE.get(lower) in names:
        return _ELSEWHERE[lower]
    near = difflib.get_close_matches(lower, names, n=1)
    return near[0] if near else None


def help_for(name: str, known: Iterable[str]) -> str:
    """A question for the nearest of *known*, or else all of them."""
    names = list(known)
    near = meant_by(name, names)
    if near is not None:
        return f"did you mean {near!r}?"
    return f"names are {', '.join(names)}" if names else "this route takes no parameters"
