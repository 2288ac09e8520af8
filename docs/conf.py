"""How the pages in this folder become a site (make site): Sphinx reads their Markdown as it is."""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

HERE = Path(__file__).parent
# The order of the site. A page that is not named here is an error; one that is named and not there is left out.
CHAPTERS = {
    "Begin": ("quick-start", "your-own-data", "concepts", "comparison", "coming-from-gorse", "coming-from-personalize"),
    "Call": ("sending", "api", "filters", "rules"),
    "Run": ("operations", "security", "metrics", "scaling"),
    "Look behind": ("architecture", "decisions", "model", "benchmarks", "log", "contributing"),
}

project = "Nearline"
author = "the Nearline authors"
copyright = "the Nearline authors, Apache-2.0"
extensions = ["myst_parser"]
exclude_patterns = ["results"]
nitpicky = True
suppress_warnings = ["myst.header"]  # a page may begin a section with a smaller heading
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
highlight_language = "none"

html_favicon = "_static/icon.svg"
html_theme = "furo"
html_title = "Nearline"
html_static_path = ["_static", "../build/mermaid"]  # the latter: tools/site.py
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}


class Mermaid(Directive):
    """A diagram, drawn in the browser by the mermaid that lies beside the page."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        text = nodes.Text("\n".join(self.content)).astext()
        escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return [nodes.raw("", f'<pre class="mermaid">{escaped}</pre>', format="html")]


def _adapt(app: Sphinx, name: str, source: list[str]) -> None:
    """What GitHub shows as it is and a site can do better: anchors, links to other pages, the table of contents."""
    text = re.sub(r'<a id="([^"]+)"></a>\n(?=#)', r"(\1)=\n", source[0])
    text = re.sub(r"(?<![\[`])`docs/([a-z-]+)\.md`(?!\])", _link, text)
    source[0] = text + (_contents() if name == app.config.root_doc else "")


def _link(found: re.Match[str]) -> str:
    return f"[`docs/{found[1]}.md`]({found[1]}.md)" if (HERE / f"{found[1]}.md").exists() else found[0]


def _contents() -> str:
    there = {chapter: [name for name in names if (HERE / f"{name}.md").exists()] for chapter, names in CHAPTERS.items()}
    trees = ("\n".join([f":caption: {chapter}", ":hidden:", "", *names]) for chapter, names in there.items())
    return "".join(f"\n\n```{{toctree}}\n{tree}\n```\n" for tree in trees)


def _scripts(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """The drawing of diagrams, on the pages that have one."""
    if 'class="mermaid"' in context.get("body", ""):
        app.add_js_file("mermaid.tiny.js", priority=900)
        app.add_js_file("diagrams.js", priority=901)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("mermaid", Mermaid)
    app.add_lexer("filter", TextLexer)  # no lexer knows our filters
    app.connect("source-read", _adapt)
    app.connect("html-page-context", _scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
