"""Pictures of products, drawn from category, title and id: the same item always has the same picture.

The category decides the object, words of the title its colour and pattern (a "RED RETROSPOT MUG" is a red mug with
spots), and the hash of the id everything else. Pictures are plain shapes without ids, styles or scripts, so that a page
may contain any number of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from nearline.hashing import hash64


@dataclass(frozen=True, slots=True)
class Paint:
    """The colours of a picture: of the object, its shaded and its light parts, and the background."""

    main: str
    shade: str
    light: str
    ground: str


PAINTS: Mapping[str, Paint] = {
    "red": Paint("#c8503f", "#9d3a2d", "#f2c9bd", "#f9ebe4"),
    "pink": Paint("#d9839a", "#b5607a", "#f8dbe2", "#fbeff1"),
    "orange": Paint("#db8a43", "#b26a2a", "#f8dcbc", "#fbf0e2"),
    "yellow": Paint("#d9b246", "#ad8a2c", "#f7e7b4", "#fbf5e1"),
    "green": Paint("#6f9a6a", "#4f774c", "#d3e4cc", "#eef4e9"),
    "mint": Paint("#6fb3a2", "#4e8d7e", "#cfe9e1", "#eaf5f1"),
    "blue": Paint("#5b88b5", "#416a93", "#cadbec", "#e9f0f7"),
    "navy": Paint("#4c5a80", "#363f5d", "#ccd2e4", "#ebedf4"),
    "purple": Paint("#8d76ad", "#6c578b", "#dcd2ea", "#f1edf6"),
    "brown": Paint("#a47a57", "#7d5a3d", "#e5d2bf", "#f5ede4"),
    "cream": Paint("#dcc9a6", "#b39c73", "#f6ecd8", "#f6f1e6"),
    "grey": Paint("#8f959e", "#6a7079", "#dadde1", "#eff0f2"),
    "black": Paint("#4b4b50", "#333338", "#cfcfd3", "#ededee"),
}
_COLOURS = (
    ("red", "red ruby cherry strawberry retrospot poppy"),
    ("pink", "pink rose fuschia fairy ballerina"),
    ("orange", "orange amber copper apricot"),
    ("yellow", "yellow gold golden lemon sunflower"),
    ("mint", "turquoise aqua mint teal seaside"),
    ("green", "green olive apple garden herb botanical woodland"),
    ("navy", "navy denim midnight"),
    ("blue", "blue delphinium nautical sky"),
    ("purple", "purple lilac lavender violet"),
    ("brown", "brown wood wooden wicker jute natural chocolate"),
    ("cream", "cream ivory white beige"),
    ("grey", "grey silver zinc metal glass chrome"),
    ("black", "black charcoal"),
)
_COLOUR_OF = {word: colour for colour, words in _COLOURS for word in words.split()}
_PATTERNS = {
    "dots": "spotty spot spots retrospot polkadot dotty polka",
    "stripes": "stripe stripes striped stripey circus",
    "heart": "heart hearts love sweetheart",
    "star": "star stars starry",
    "flower": "flower flowers floral daisy rose roses poppy blossom botanical",
}
_PATTERN_OF = {word: pattern for pattern, words in _PATTERNS.items() for word in words.split()}
_BY_CHANCE = ("plain", "plain", "dots", "stripes", "plain")


@lru_cache(maxsize=20_000)
def picture(item_id: str, category: str, title: str) -> str:
    """The item's picture as an SVG element, hidden from screen readers because the title stands beside it."""
    number = hash64(item_id)
    words = title.casefold().replace(",", " ").replace("/", " ").split()
    colours = list(PAINTS)
    paint = PAINTS[next((_COLOUR_OF[word] for word in words if word in _COLOUR_OF), colours[number % len(colours)])]
    chance = _BY_CHANCE[(number >> 8) % len(_BY_CHANCE)]
    pattern = next((_PATTERN_OF[word] for word in words if word in _PATTERN_OF), chance)
    thing, (x, y, size) = _thing(category.casefold(), words, number)(paint)
    return (
        '<svg class="picture" viewBox="0 0 120 120" aria-hidden="true" focusable="false">'
        f'<rect width="120" height="120" fill="{paint.ground}"/>'
        f'<ellipse cx="60" cy="103" rx="40" ry="5" fill="{paint.shade}" opacity=".13"/>'
        f"{thing}{_PATTERN[pattern](x, y, size, paint.light)}</svg>"
    )


# --- patterns: within a square whose middle is x, y -------------------------------------------------------------------


def _plain(x: float, y: float, size: float, colour: str) -> str:
    return ""


def _dots(x: float, y: float, size: float, colour: str) -> str:
    step = size / 3
    places = [(dx * step, dy * step) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dx + dy) % 2 == 0]
    return "".join(
        f'<circle cx="{x + dx:g}" cy="{y + dy:g}" r="{size / 11:.3g}" fill="{colour}"/>' for dx, dy in places
    )


def _stripes(x: float, y: float, size: float, colour: str) -> str:
    left, width = x - size / 2, size / 9
    bars = [left + size * at / 4 - width / 2 for at in (0.5, 1.5, 2.5, 3.5)]
    return "".join(
        f'<rect x="{bar:.4g}" y="{y - size / 2:g}" width="{width:.3g}" height="{size:g}" rx="1.5" fill="{colour}"/>'
        for bar in bars
    )


def _heart(x: float, y: float, size: float, colour: str) -> str:
    s = size / 30
    return (
        f'<path transform="translate({x:g} {y:g}) scale({s:.3g})" fill="{colour}" '
        'd="M0 11C-15 0-10-11-4-10-1-9.5 0-6 0-6S1-9.5 4-10C10-11 15 0 0 11Z"/>'
    )


def _star(x: float, y: float, size: float, colour: str) -> str:
    s = size / 28
    return (
        f'<path transform="translate({x:g} {y:g}) scale({s:.3g})" fill="{colour}" '
        'd="M0-12 3.500-4 12-3.500 5.500 2 7.600 10.500 0 6-7.600 10.500-5.500 2-12-3.500-3.500-4Z"/>'
    )


def _flower(x: float, y: float, size: float, colour: str) -> str:
    far, r = size / 4.6, size / 6.5
    petals = ((0, -1), (0.95, -0.31), (0.59, 0.81), (-0.59, 0.81), (-0.95, -0.31))
    drawn = "".join(
        f'<circle cx="{x + far * dx:.4g}" cy="{y + far * dy:.4g}" r="{r:.3g}" fill="{colour}"/>' for dx, dy in petals
    )
    return f'{drawn}<circle cx="{x:g}" cy="{y:g}" r="{size / 9:.3g}" fill="#fff" opacity=".85"/>'


_PATTERN: Mapping[str, Callable[[float, float, float, str], str]] = {
    "plain": _plain,
    "dots": _dots,
    "stripes": _stripes,
    "heart": _heart,
    "star": _star,
    "flower": _flower,
}

# --- things: their shapes, and the square of them (middle and size) that has room for a pattern -----------------------

Thing = Callable[[Paint], tuple[str, tuple[float, float, float]]]


def _bag(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<path d="M45 44V34a15 15 0 0 1 30 0v10" fill="none" stroke="{p.shade}" stroke-width="5"/>'
        f'<path d="M32 42h56l6 54a6 6 0 0 1-6 6H32a6 6 0 0 1-6-6Z" fill="{p.main}"/>'
        f'<path d="M32 42h56l1 9H31Z" fill="{p.shade}" opacity=".45"/>'
    ), (60, 75, 36)


def _box(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<rect x="28" y="50" width="64" height="52" rx="4" fill="{p.main}"/>'
        f'<rect x="23" y="36" width="74" height="17" rx="4" fill="{p.shade}"/>'
        f'<rect x="50" y="42" width="20" height="5" rx="2.500" fill="{p.light}"/>'
    ), (60, 78, 32)


def _jar(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        '<path d="M38 42h44c8 6 9 14 9 22v28a10 10 0 0 1-10 10H39a10 10 0 0 1-10-10V64c0-8 1-16 9-22Z" '
        f'fill="{p.main}"/>'
        f'<rect x="36" y="25" width="48" height="15" rx="4" fill="{p.shade}"/>'
        f'<path d="M37 62v26" stroke="{p.light}" stroke-width="4" stroke-linecap="round" opacity=".7"/>'
    ), (62, 73, 32)


def _candle(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        '<path d="M60 14c8 9 9 16 0 22-9-6-8-13 0-22Z" fill="#f0b24a"/>'
        '<path d="M60 22c4 5 4 9 0 12-4-3-4-7 0-12Z" fill="#fbe3a8"/>'
        f'<path d="M60 34v9" stroke="{p.shade}" stroke-width="3"/>'
        f'<rect x="42" y="43" width="36" height="52" rx="4" fill="{p.main}"/>'
        f'<path d="M42 50c6 6 9 0 13 4s8 2 12-1 8-2 11 0v-6a4 4 0 0 0-4-4H46a4 4 0 0 0-4 4Z" fill="{p.light}"/>'
        f'<path d="M30 95h60l-6 8H36Z" fill="{p.shade}"/>'
    ), (60, 74, 28)


def _lantern(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<path d="M48 26a12 12 0 0 1 24 0" fill="none" stroke="{p.shade}" stroke-width="4"/>'
        f'<path d="M38 42 60 24l22 18Z" fill="{p.shade}"/>'
        f'<rect x="36" y="42" width="48" height="54" rx="3" fill="{p.main}"/>'
        f'<rect x="43" y="49" width="34" height="40" rx="2" fill="{p.light}"/>'
        '<path d="M60 56c6 7 7 12 0 17-7-5-6-10 0-17Z" fill="#f0b24a"/>'
        f'<rect x="54" y="73" width="12" height="16" rx="1.500" fill="{p.main}"/>'
        f'<rect x="32" y="95" width="56" height="7" rx="2" fill="{p.shade}"/>'
    ), (60, 45.5, 0.1)


def _lamp(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<path d="M60 60v38" stroke="{p.shade}" stroke-width="6"/>'
        f'<path d="M44 24h32l16 40H28Z" fill="{p.main}"/>'
        f'<path d="M28 64h64l-2-5H30Z" fill="{p.shade}" opacity=".45"/>'
        f'<path d="M40 103c0-7 9-10 20-10s20 3 20 10Z" fill="{p.shade}"/>'
        '<path d="M40 70c6 7 34 7 40 0" fill="none" stroke="#f0b24a" stroke-width="3" stroke-linecap="round" '
        'opacity=".8"/>'
    ), (60, 44, 24)


def _necklace(p: Paint) -> tuple[str, tuple[float, float, float]]:
    beads = ((25, 38), (28, 52), (34, 65), (43, 75), (77, 75), (86, 65), (92, 52), (95, 38))
    drawn = "".join(f'<circle cx="{x}" cy="{y}" r="6" fill="{p.main}"/>' for x, y in beads)
    return (
        f'<path d="M24 26c0 76 72 76 72 0" fill="none" stroke="{p.shade}" stroke-width="2"/>{drawn}'
        f'<circle cx="60" cy="86" r="15" fill="{p.main}"/><circle cx="60" cy="86" r="15" fill="none" '
        f'stroke="{p.shade}" stroke-width="2.500"/>'
    ), (60, 86, 17)


def _mug(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<path d="M80 52h8a13 13 0 0 1 0 30h-9" fill="none" stroke="{p.shade}" stroke-width="7"/>'
        f'<path d="M28 40h54v46a16 16 0 0 1-16 16H44a16 16 0 0 1-16-16Z" fill="{p.main}"/>'
        f'<ellipse cx="55" cy="40" rx="27" ry="6" fill="{p.shade}"/>'
        f'<path d="M46 16c-5 6 5 8 0 15M62 16c-5 6 5 8 0 15" fill="none" stroke="{p.shade}" stroke-width="3" '
        'stroke-linecap="round" opacity=".35"/>'
    ), (55, 71, 34)


def _teapot(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<path d="M86 62c18-6 18 26-4 26" fill="none" stroke="{p.shade}" stroke-width="6"/>'
        f'<path d="M36 74C22 70 24 56 14 52l6-4c10 2 12 12 20 14Z" fill="{p.shade}"/>'
        f'<path d="M34 66c0-16 12-24 26-24s26 8 26 24c0 20-10 36-26 36S34 86 34 66Z" fill="{p.main}"/>'
        f'<path d="M44 44c4-7 28-7 32 0Z" fill="{p.shade}"/><circle cx="60" cy="34" r="5" fill="{p.shade}"/>'
    ), (60, 72, 32)


def _cakestand(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<path d="M60 20v80" stroke="{p.shade}" stroke-width="4"/><circle cx="60" cy="18" r="5" fill="{p.shade}"/>'
        f'<path d="M42 42h36l-5 7H47Z" fill="{p.main}"/><path d="M30 72h60l-7 8H37Z" fill="{p.main}"/>'
        f'<path d="M38 103c2-7 42-7 44 0Z" fill="{p.shade}"/>'
        f'<circle cx="51" cy="37" r="5" fill="{p.light}"/><circle cx="66" cy="37" r="5" fill="{p.light}"/>'
        f'<path d="M37 72c0-9 14-9 14 0ZM67 72c0-9 14-9 14 0Z" fill="{p.light}"/>'
    ), (60, 76, 0.1)


def _plate(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<circle cx="60" cy="60" r="41" fill="{p.main}"/><circle cx="60" cy="60" r="28" fill="{p.shade}" '
        'opacity=".35"/>'
        f'<circle cx="60" cy="60" r="35" fill="none" stroke="{p.light}" stroke-width="2.500" stroke-dasharray="2 6"/>'
    ), (60, 60, 32)


def _cupcake(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<path d="M34 64h52l-8 38H42Z" fill="{p.shade}"/>'
        f'<path d="M46 66l4 34M60 66v34M74 66l-4 34" stroke="{p.light}" stroke-width="2.500" opacity=".6"/>'
        f'<path d="M28 64c-4-12 6-18 12-18 0-12 12-18 20-18s20 6 20 18c6 0 16 6 12 18Z" fill="{p.main}"/>'
        '<circle cx="60" cy="24" r="6" fill="#c8503f"/>'
    ), (60, 48, 26)


def _sign(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<path d="M36 48 60 22l24 26" fill="none" stroke="{p.shade}" stroke-width="3"/>'
        f'<circle cx="60" cy="22" r="4" fill="{p.shade}"/>'
        f'<rect x="22" y="48" width="76" height="46" rx="5" fill="{p.main}"/>'
        f'<rect x="27" y="53" width="66" height="36" rx="3" fill="none" stroke="{p.light}" stroke-width="2"/>'
    ), (60, 71, 22)


def _clock(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<circle cx="60" cy="62" r="40" fill="{p.main}"/><circle cx="60" cy="62" r="31" fill="{p.light}"/>'
        f'<path d="M60 40v22l14 9" fill="none" stroke="{p.shade}" stroke-width="4" stroke-linecap="round"/>'
        f'<path d="M60 34v4M60 86v4M32 62h4M84 62h4" stroke="{p.shade}" stroke-width="3" stroke-linecap="round"/>'
    ), (60, 62, 0.1)


def _frame(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<rect x="26" y="20" width="68" height="80" rx="3" fill="{p.main}"/>'
        '<rect x="36" y="30" width="48" height="60" fill="#fff"/>'
        f'<path d="M36 90V76l14-16 12 12 8-8 14 14v12Z" fill="{p.shade}" opacity=".55"/>'
        f'<circle cx="72" cy="44" r="6" fill="{p.light}"/>'
    ), (60, 25, 0.1)


def _bauble(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<path d="M60 12v14" stroke="{p.shade}" stroke-width="2"/>'
        '<rect x="52" y="24" width="16" height="10" rx="2" fill="#d9b246"/>'
        f'<circle cx="60" cy="67" r="35" fill="{p.main}"/>'
        f'<path d="M34 52c5-10 14-14 20-14" fill="none" stroke="{p.light}" stroke-width="4" stroke-linecap="round" '
        'opacity=".7"/>'
    ), (61, 70, 36)


def _tree(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<rect x="54" y="88" width="12" height="14" fill="{p.shade}"/>'
        f'<path d="M60 18 82 50H72l16 22H76l16 20H28l16-20H32l16-22H38Z" fill="{p.main}"/>'
        f'<path d="M60 18 82 50H72l16 22H76l16 20H60Z" fill="{p.shade}" opacity=".22"/>'
        f'<circle cx="54" cy="58" r="3.5" fill="{p.light}"/><circle cx="68" cy="68" r="3.5" fill="{p.light}"/>'
        f'<circle cx="50" cy="82" r="3.5" fill="{p.light}"/><circle cx="72" cy="84" r="3.5" fill="{p.light}"/>'
        '<circle cx="60" cy="18" r="5" fill="#d9b246"/>'
    ), (60, 62, 0.1)


def _stocking(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<path d="M42 34h32v34c0 6 22 8 22 22 0 8-6 12-16 12-14 0-38-6-38-24Z" fill="{p.main}"/>'
        f'<rect x="37" y="22" width="42" height="16" rx="6" fill="{p.light}"/>'
        f'<path d="M80 102c10 0 16-4 16-12 0-3-1-6-3-8-6 4-12 10-13 20Z" fill="{p.shade}"/>'
    ), (57, 56, 24)


def _bunting(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<path d="M8 34c26 20 78 20 104 0" fill="none" stroke="{p.shade}" stroke-width="3"/>'
        f'<path d="M16 40l22 9-18 30Z" fill="{p.main}"/><path d="M47 50h26L60 86Z" fill="{p.shade}"/>'
        f'<path d="M104 40l-22 9 18 30Z" fill="{p.main}"/>'
    ), (60, 62, 13)


def _card(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<rect x="34" y="26" width="56" height="74" rx="3" fill="{p.shade}" opacity=".55" '
        'transform="rotate(7 62 63)"/>'
        f'<rect x="30" y="24" width="56" height="74" rx="3" fill="{p.main}"/>'
        f'<rect x="37" y="31" width="42" height="60" rx="2" fill="none" stroke="{p.light}" stroke-width="2"/>'
    ), (58, 61, 30)


def _balloon(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<path d="M60 84c-6 8 8 12 0 22" fill="none" stroke="{p.shade}" stroke-width="2"/>'
        f'<path d="M60 82l-6 6h12Z" fill="{p.shade}"/>'
        f'<ellipse cx="60" cy="50" rx="30" ry="34" fill="{p.main}"/>'
        f'<path d="M40 42c1-9 6-14 12-16" fill="none" stroke="{p.light}" stroke-width="4" stroke-linecap="round" '
        'opacity=".7"/>'
    ), (61, 53, 30)


def _cushion(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<path d="M22 30c12 5 64 5 76 0 5 0 6 4 4 8-5 14-5 36 0 50 2 4 1 8-4 8-12-5-64-5-76 0-5 0-6-4-4-8 5-14 5-36 '
        f'0-50-2-4-1-8 4-8Z" fill="{p.main}"/>'
        f'<path d="M30 40c10 3 50 3 60 0M30 86c10-3 50-3 60 0" fill="none" stroke="{p.shade}" stroke-width="2" '
        'opacity=".6"/>'
    ), (60, 63, 34)


def _flowers(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        '<path d="M60 74V44M60 74 42 52M60 74l18-22" stroke="#6f9a6a" stroke-width="4" fill="none"/>'
        f'<circle cx="60" cy="34" r="13" fill="{p.main}"/><circle cx="37" cy="46" r="11" fill="{p.shade}"/>'
        f'<circle cx="83" cy="46" r="11" fill="{p.shade}"/><circle cx="60" cy="34" r="5" fill="{p.light}"/>'
        f'<circle cx="37" cy="46" r="4" fill="{p.light}"/><circle cx="83" cy="46" r="4" fill="{p.light}"/>'
        f'<path d="M44 68h32c2 10-6 14-6 20 0 5 4 8 4 14H46c0-6 4-9 4-14 0-6-8-10-6-20Z" fill="{p.main}"/>'
    ), (60, 82, 0.1)


def _plant(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        '<path d="M60 66C60 40 44 30 30 30c0 18 10 32 30 36Zm0-6c0-24 12-36 28-40 2 22-8 36-28 40Z" fill="#6f9a6a"/>'
        '<path d="M60 70V34" stroke="#4f774c" stroke-width="3"/>'
        f'<path d="M34 66h52l-7 36H41Z" fill="{p.main}"/><rect x="30" y="60" width="60" height="11" rx="3" '
        f'fill="{p.shade}"/>'
    ), (60, 87, 22)


def _bear(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<circle cx="34" cy="36" r="14" fill="{p.shade}"/><circle cx="86" cy="36" r="14" fill="{p.shade}"/>'
        f'<circle cx="60" cy="62" r="38" fill="{p.main}"/><ellipse cx="60" cy="74" rx="17" ry="14" fill="{p.light}"/>'
        '<circle cx="46" cy="56" r="4" fill="#333338"/><circle cx="74" cy="56" r="4" fill="#333338"/>'
        '<ellipse cx="60" cy="69" rx="6" ry="4" fill="#333338"/>'
        '<path d="M60 73v5m-6 2c3 3 9 3 12 0" fill="none" stroke="#333338" stroke-width="2" stroke-linecap="round"/>'
    ), (60, 36, 0.1)


def _ribbon(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<circle cx="60" cy="60" r="38" fill="{p.main}"/><circle cx="60" cy="60" r="24" fill="{p.shade}"/>'
        '<circle cx="60" cy="60" r="12" fill="#fff" opacity=".8"/>'
        f'<path d="M90 82c10 8 14 14 10 22l-12-6-8-10Z" fill="{p.main}"/>'
        f'<circle cx="60" cy="60" r="31" fill="none" stroke="{p.light}" stroke-width="2" stroke-dasharray="4 5"/>'
    ), (60, 60, 0.1)


def _bottle(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<rect x="50" y="16" width="20" height="14" rx="3" fill="{p.shade}"/>'
        f'<path d="M48 30h24c0 8 16 10 16 26v36a10 10 0 0 1-10 10H42a10 10 0 0 1-10-10V56c0-16 16-18 16-26Z" '
        f'fill="{p.main}"/>'
        f'<rect x="39" y="54" width="42" height="40" rx="6" fill="none" stroke="{p.shade}" stroke-width="2" '
        'opacity=".5"/>'
    ), (60, 74, 30)


def _umbrella(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<path d="M60 58v36a8 8 0 0 1-16 0" fill="none" stroke="{p.shade}" stroke-width="5" stroke-linecap="round"/>'
        f'<path d="M16 62a44 40 0 0 1 88 0c-7-7-15-7-22 0-7-7-15-7-22 0-7-7-15-7-22 0-7-7-15-7-22 0Z" fill="{p.main}"/>'
        f'<path d="M60 14v8" stroke="{p.shade}" stroke-width="5" stroke-linecap="round"/>'
    ), (60, 42, 22)


def _gift(p: Paint) -> tuple[str, tuple[float, float, float]]:
    return (
        f'<rect x="28" y="52" width="64" height="50" rx="3" fill="{p.main}"/>'
        f'<rect x="22" y="40" width="76" height="16" rx="3" fill="{p.shade}"/>'
        f'<rect x="53" y="40" width="14" height="62" fill="{p.light}"/>'
        f'<path d="M60 40c-22 0-26-20-12-20 8 0 12 10 12 20 0-10 4-20 12-20 14 0 10 20-12 20Z" fill="none" '
        f'stroke="{p.light}" stroke-width="5"/>'
    ), (60, 46, 0.1)


_BY_WORD: Mapping[str, Thing] = {
    "mug": _mug, "mugs": _mug, "cup": _mug, "cups": _mug, "teapot": _teapot, "cakestand": _cakestand, "plate": _plate,
    "plates": _plate, "bowl": _plate, "bowls": _plate, "doily": _plate, "doilies": _plate, "jar": _jar, "jars": _jar,
    "bottle": _bottle, "lantern": _lantern, "lanterns": _lantern, "clock": _clock, "clocks": _clock, "frame": _frame,
    "frames": _frame, "mirror": _frame, "bunting": _bunting, "garland": _bunting, "umbrella": _umbrella,
    "parasol": _umbrella, "bag": _bag, "bags": _bag, "cushion": _cushion, "balloon": _balloon, "balloons": _balloon,
    "cake": _cupcake, "cakes": _cupcake, "box": _box, "lamp": _lamp, "chandelier": _lamp, "sack": _bag, "tag": _card,
    "tags": _card, "card": _card, "cards": _card, "tin": _jar, "tins": _jar, "wreath": _flowers, "sign": _sign,
    "necklace": _necklace, "bracelet": _necklace, "candle": _candle, "candles": _candle, "t-light": _candle,
    "tree": _tree, "stocking": _stocking, "teddy": _bear, "ribbon": _ribbon,
}  # fmt: skip
_BY_CATEGORY: Mapping[str, tuple[Thing, ...]] = {
    "bags": (_bag,), "storage": (_box, _jar), "candles": (_candle, _lantern), "lighting": (_lamp,),
    "jewellery": (_necklace,), "tableware": (_plate, _mug), "baking": (_cupcake,), "wall and door": (_sign, _frame),
    "christmas": (_bauble, _tree, _stocking), "decorations": (_bunting, _flowers), "stationery": (_card,),
    "party": (_balloon,), "textiles": (_cushion,), "garden": (_plant,), "toys": (_bear,), "craft": (_ribbon,),
    "warmers": (_bottle,),
}  # fmt: skip
_OTHERS = (_gift, _box, _card, _jar, _frame, _bag)


def _thing(category: str, words: list[str], number: int) -> Thing:
    """The object to draw: by the last known word of the title, else by the category, else one of a few by *number*."""
    named = next((_BY_WORD[word] for word in reversed(words) if word in _BY_WORD), None)
    things = _BY_CATEGORY.get(category, _OTHERS)
    return named or things[(number >> 16) % len(things)]
