"""The language of ``filter=``: an expression over an item's fields, parsed into a tree (docs/filters.md).

Example: ``category in ("A", "B") and price < 20 and not attributes.colour = "red"``. The parser knows the fields that
every item has and their types; the catalogue knows the attributes (in_process/columns.py). No part of an expression is
executed as code: its values are only compared.
"""

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from nearline.errors import BadInput

MAX_BYTES = 4_000
MAX_STORED_BYTES = 10_000  # of an operator's rules and scenarios, which are parsed when they change
MAX_PIECES = 500  # brackets, commas, comparisons, and, or, not: each costs the parser 10 us
MAX_DEPTH = 50  # nested brackets and nots
MAX_COMPARISONS = 100  # each reads every item: 0.03 ms at 100,000 items
TEXTS = ("category", "locale", "brand")
NUMBERS = ("price", "listed_ms")
ATTRIBUTE = "attributes."

Value = str | float | bool

_TYPES = {str: "text (written in quotes)", float: "a number", bool: "true or false"}
_NEAR = 5  # characters by which a name's length may differ from the suggested one's
_LOOKED_AT = 1_000  # names that are compared with a misspelt one, 5 us each

_SHOWN_AROUND = 30  # characters of the expression that a message shows on either side of the error
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "'": "'", "\\": "\\"}

_GRAMMAR = r"""
?start: either
?either: both ("or"i both)*
?both: part ("and"i part)*
?part: NOT part -> negation
     | OPEN either ")" -> brackets
     | name (EQUALS | DIFFERS) value -> equality
     | name (LESS | LEAST | MORE | MOST) value -> order
     | name [NOT] "in"i "(" value ("," value)* ")" -> membership
     | name "is"i [NOT] "missing"i -> missing
name: NAME -> field
    | NAME "." (KEY | STRING) -> attribute
value: STRING -> text
     | NUMBER -> number
     | YES -> yes
     | NO -> no
NOT: "not"i
YES: "true"i
NO: "false"i
OPEN: "("
EQUALS: "==" | "="
DIFFERS: "!="
LESS: "<"
MOST: "<="
MORE: ">"
LEAST: ">="
NAME: /[^\W\d]\w*/i
KEY: /[\w-]+/
NUMBER: /[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?/i
STRING: /"(\\.|[^"\\])*"|'(\\.|[^'\\])*'/s
%ignore /\s+/
"""

_CALLED = {
    "NAME": "a name",
    "KEY": "an attribute's name",
    "STRING": "text in quotes",
    "NUMBER": "a number",
    "YES": "true",
    "NO": "false",
    "LPAR": "'('",
    "OPEN": "'('",
    "RPAR": "')'",
    "COMMA": "','",
    "DOT": "'.'",
    "EQUALS": "=",
    "DIFFERS": "!=",
    "LESS": "<",
    "MOST": "<=",
    "MORE": ">",
    "LEAST": ">=",
    "$END": "the end",
}


class FilterError(BadInput):
    """An expression that is not a valid filter; *position* is the index of the character with the error."""

    def __init__(self, problem: str, expression: str, position: int) -> None:
        super().__init__("bad_filter", f"{problem}, at character {position}:\n{_pointed(expression, position)}")
        self.problem = problem
        self.expression = expression
        self.position = position


@dataclass(frozen=True, slots=True)
class Same:
    """The field equals one of *values*, in value and type; a missing field equals none."""

    name: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Compared:
    """The field is a number that compares with *bound* by *sign*."""

    name: str
    sign: str  # <, <=, >, >=
    bound: float


@dataclass(frozen=True, slots=True)
class Missing:
    """The item has no such field, or its text is empty."""

    name: str


@dataclass(frozen=True, slots=True)
class Not:
    """*part* does not hold."""

    part: "Node"


@dataclass(frozen=True, slots=True)
class AllOf:
    """All *parts* hold."""

    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one of *parts* holds."""

    parts: tuple["Node", ...]


Node = Same | Compared | Missing | Not | AllOf | AnyOf


@dataclass(frozen=True, slots=True)
class Filter:
    """A parsed expression; expressions that differ only in spaces, quotes or the order of parts have the same *key*."""

    expression: str
    node: Node
    key: str
    compared: tuple[
        tuple[str, frozenset[type], int], ...
    ]  # attributes, the types they are compared as, and their positions

    @property
    def attributes(self) -> tuple[tuple[str, int], ...]:
        """The attributes' names and positions in the expression."""
        return tuple((name, position) for name, _, position in self.compared)

    def unknown(self, name: str, position: int, known: Iterable[str]) -> FilterError:
        """The error for attribute *name*, which no item has; suggests similar *known* names."""
        alike = (other for other in known if abs(len(other) - len(name)) < _NEAR)
        near = difflib.get_close_matches(name, list(islice(alike, _LOOKED_AT)), n=3, cutoff=0.5)
        near = [ATTRIBUTE + (other if re.fullmatch(r"[\w-]+", other) else _quoted(other)) for other in near]
        return FilterError(f"no item has the attribute {name!r:.80}; {_meant(near)}", self.expression, position)

    def mistyped(self, name: str, position: int, known: Iterable[type]) -> FilterError:
        """The error for attribute *name*, whose values have the types *known* and never the compared one."""
        came = " or ".join(sorted(_TYPES[kind] for kind in known))
        return FilterError(f"attribute {name!r:.80} is {came} wherever an item has it", self.expression, position)


def parse(expression: str, *, is_stored: bool = False) -> Filter:
    """Parse *expression*; ``FilterError`` with the position if it is invalid.

    One that *is_stored*, in a rule or scenario, may be longer.
    """
    most_bytes = MAX_STORED_BYTES if is_stored else MAX_BYTES
    raw = expression.encode("utf-8", "replace")
    if len(raw) > most_bytes:
        at = len(raw[:most_bytes].decode("utf-8", "ignore"))
        raise FilterError(f"the expression has {len(raw):,} bytes; at most {most_bytes:,} are accepted", expression, at)
    _check_size(expression, most_bytes if is_stored else MAX_PIECES)
    try:
        tree = _parser().parse(expression)
    except UnexpectedInput as error:
        raise _refusal(error, expression) from None
    reading = _Reading(expression)
    node = reading.node(tree)
    return Filter(expression, node, repr(node), tuple(reading.compared))


def narrowed(wanted: Filter | None, *, to: Filter | None = None, without: Sequence[Filter] = ()) -> Filter | None:
    """The filter of items that pass *wanted* and *to* and none of *without*; ``None`` without conditions.

    Only the attributes of *wanted* and *to* are checked: those of *without* need not exist.
    """
    given = [each for each in (wanted, to) if each is not None]
    if len(given) < 2 and not without:
        return given[0] if given else None
    nodes = [part for each in given for part in (each.node.parts if isinstance(each.node, AllOf) else (each.node,))]
    parts = _ordered([*nodes, *(Not(each.node) for each in without)])
    node = parts[0] if len(parts) == 1 else AllOf(parts)
    expression = " and ".join(
        [f"({each.expression})" for each in given] + [f"not ({each.expression})" for each in without]
    )
    return Filter(expression, node, repr(node), tuple(name for each in given for name in each.compared))


@cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", maybe_placeholders=True)


# The pieces that nesting and comparisons follow from. Quoted texts, attributes' names and other words match no group;
# the "not" of "not in" and "is not missing" nests nothing.
_PIECES = re.compile(
    r"""
    "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | \.\s*[\w-]+
    | \b(?:(?P<list>(?:not\s+)?in\s*\() | (?P<compares>is(?:\s+not)?\b) | (?P<negates>not\b) | (?P<joins>(?:and|or)\b))
    | [\w-]+ | (?P<sign>[=!<>]=?) | (?P<opens>\() | (?P<closes>\)) | (?P<comma>,)
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


def _check_size(expression: str, most_pieces: int) -> None:
    """Refuse too much nesting or too many pieces in one look, before the parser's; other mistakes pass."""
    pieces = comparisons = nots = depth = 0  # nots: that apply to what comes next
    opened: list[int] = []  # by how much each open bracket is deeper than what is around it
    for piece in _PIECES.finditer(expression):
        if piece.lastgroup is None:
            continue
        pieces += 1
        match piece.lastgroup:
            case "negates":
                nots += 1
            case "opens":
                opened.append(nots + 1)
                depth, nots = depth + nots + 1, 0
            case "closes":
                depth, nots = depth - (opened.pop() if opened else 0), 0
            case "joins":
                nots = 0
            case "list":
                comparisons += 1
                opened.append(0)
            case "sign" | "compares":
                comparisons += 1
        if depth + nots > MAX_DEPTH:
            raise FilterError(f"more than {MAX_DEPTH} nested brackets and nots", expression, piece.start())
        if comparisons > MAX_COMPARISONS:
            raise FilterError(f"more than {MAX_COMPARISONS} comparisons", expression, piece.start())
        if pieces > most_pieces:
            problem = f"more than {MAX_PIECES} brackets, commas, comparisons, and, or, not together"
            raise FilterError(problem, expression, piece.start())


Branch = Tree[Token]


class _Reading:
    """Turns one expression's parse tree into nodes; refuses what is well formed but has no meaning."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self.compared: list[tuple[str, frozenset[type], int]] = []

    def node(self, tree: Branch) -> Node:
        """The node of *tree*."""
        words = tree.children
        match str(tree.data):
            case "either":
                return AnyOf(_ordered(self._nodes(words)))
            case "both":
                return AllOf(_ordered(self._nodes(words)))
            case "negation":
                return Not(self._nodes(words)[0])
            case "brackets":
                return self._nodes(words)[0]
            case "missing":
                return _unless(words[1], self._missing(_branch(words[0])))
            case "order":
                return self._order(_branch(words[0]), str(words[1]), _branch(words[2]))
            case "equality":
                return _unless(words[1] == "!=", self._same(_branch(words[0]), [_branch(words[2])]))
            case _:
                values = [_branch(word) for word in words[2:]]
                return _unless(words[1], self._same(_branch(words[0]), values))

    def _nodes(self, words: list[Token | Branch]) -> list[Node]:
        return [self.node(word) for word in words if isinstance(word, Tree)]

    def _missing(self, name: Branch) -> Node:
        field = self._name(name)
        self._note(name, field)
        return Missing(field)

    def _same(self, name: Branch, values: list[Branch]) -> Node:
        field = self._name(name)
        taken = {repr(value): value for value in (self._value_for(field, value) for value in values)}
        self._note(name, field, *map(type, taken.values()))
        return Same(field, tuple(taken[key] for key in sorted(taken)))

    def _order(self, name: Branch, sign: str, value: Branch) -> Node:
        field = self._name(name)
        if field in TEXTS:
            raise self._error(f"{field} is text, which is compared with =, !=, in and not in", name)
        bound = self._value_for(field, value)
        if not isinstance(bound, float):
            raise self._error(f"{sign} compares numbers, came {_word(value)}", value)
        self._note(name, field, float)
        return Compared(field, sign, bound)

    def _note(self, name: Branch, field: str, *types: type) -> None:
        if field.startswith(ATTRIBUTE):
            self.compared.append((field.removeprefix(ATTRIBUTE), frozenset(types), _start(name)))

    def _name(self, tree: Branch) -> str:
        words = [str(word) for word in tree.children]
        if tree.data == "attribute" and words[0] + "." == ATTRIBUTE:
            key = self._text(tree, 1) if words[1][0] in "\"'" else words[1]
            return ATTRIBUTE + key
        name = ".".join(words)
        if name in TEXTS or name in NUMBERS:
            return name
        raise self._error(_unknown_name(name, words), tree)

    def _value_for(self, field: str, tree: Branch) -> Value:
        value = self._value(tree)
        if field in TEXTS and not isinstance(value, str):
            raise self._error(f"{field} is text, and text is written in quotes, came {_word(tree)}", tree)
        if field in NUMBERS and not isinstance(value, float):
            raise self._error(f"{field} is a number, came {_word(tree)}", tree)
        return value

    def _value(self, tree: Branch) -> Value:
        if tree.data == "text":
            return self._text(tree, 0)
        if tree.data != "number":
            return tree.data == "yes"
        number = float(str(tree.children[0]))
        if not math.isfinite(number):
            raise self._error("the number is too large", tree)
        return number

    def _text(self, tree: Branch, nth: int) -> str:
        """The quoted text that is the *nth* child of *tree*."""
        token = tree.children[nth]
        assert isinstance(token, Token)
        start = (token.start_pos or 0) + 1

        def plain(found: re.Match[str]) -> str:
            if found[1] in _ESCAPES:
                return _ESCAPES[found[1]]
            code = int(found[1][1:], 16) if len(found[1]) == 5 else 0xD800
            if 0xD800 <= code < 0xE000:
                known = "\\n, \\t, \\r, \\\", \\', \\\\ or \\u and four hex digits"
                problem = f"{found[0]} is not a character; expected after a backslash: {known}"
                raise FilterError(problem, self._expression, start + found.start())
            return chr(code)

        return re.sub(r"\\(u[0-9a-fA-F]{4}|.)", plain, str(token)[1:-1], flags=re.DOTALL)

    def _error(self, problem: str, tree: Branch) -> FilterError:
        return FilterError(problem, self._expression, _start(tree))


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _unless(negated: object, node: Node) -> Node:
    return Not(node) if negated else node


def _ordered(parts: list[Node]) -> tuple[Node, ...]:
    """*parts* without duplicates, in an order independent of the expression's."""
    by_key = {repr(part): part for part in parts}  # not a set of parts: for Python, 1.0 and true are equal
    return tuple(by_key[key] for key in sorted(by_key))


def _branch(word: Token | Branch) -> Branch:
    assert isinstance(word, Tree)
    return word


def _word(tree: Branch) -> str:
    """A value as written."""
    return f"{tree.children[0]!s:.80}"


def _start(tree: Branch) -> int:
    """The position in the expression where *tree* begins."""
    while True:
        first = tree.children[0]
        if isinstance(first, Token):
            return first.start_pos or 0
        tree = first


def _unknown_name(name: str, words: list[str]) -> str:
    if name == "title":
        return "title cannot be filtered by; " + _meant([])
    if name == "available":
        return "available needs no filter: unavailable items are never recommended; " + _meant([])
    if len(words) > 1:
        return f"{name!r:.80} is not a name; " + _meant([ATTRIBUTE + words[1]])
    return f"unknown name {name!r:.80}; " + _meant(difflib.get_close_matches(name, [*TEXTS, *NUMBERS], n=2, cutoff=0.5))


def _meant(near: list[str]) -> str:
    near = [f"{name:.80}" for name in near]
    return f"names are {', '.join((*TEXTS, *NUMBERS))} and attributes.<name>" + (
        f"; did you mean {' or '.join(near)}?" if near else ""
    )


def _refusal(error: UnexpectedInput, expression: str) -> FilterError:
    """The error for what the parser could not read, in the language's terms."""
    if isinstance(error, UnexpectedToken) and error.token.type != "$END":
        return FilterError(
            f"{str(error.token)!r:.80} cannot stand here; {_awaited(error.expected)}", expression, _at(error)
        )
    if isinstance(error, UnexpectedCharacters):
        if expression[_at(error)] in "\"'":
            return FilterError("a quoted text begins here that is not allowed or has no end", expression, _at(error))
        problem = f"{expression[_at(error)]!r} cannot stand here; {_awaited(error.allowed)}"
        return FilterError(problem, expression, _at(error))
    expected = error.expected if isinstance(error, UnexpectedToken) else ()
    return FilterError(f"the expression ends too early; {_awaited(expected)}", expression, len(expression))


def _at(error: UnexpectedInput) -> int:
    return int(error.pos_in_stream or 0)


def _awaited(terminals: Iterable[str] | None) -> str:
    names = sorted({_CALLED.get(name, name.lower()) for name in terminals or ()})
    return f"expected {', '.join(names)}"


def _pointed(expression: str, position: int) -> str:
    """The line around *position* with a caret below it; line breaks show as spaces."""
    start, end = max(0, position - _SHOWN_AROUND), position + _SHOWN_AROUND
    line = "".join(character if character.isprintable() else " " for character in expression[start:end])
    before, after = "…" * (start > 0), "…" * (end < len(expression))
    return f"{before}{line}{after}\n{' ' * (len(before) + position - start)}^"
