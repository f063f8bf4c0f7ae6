"""Self-contained HTML reports with sortable tables and inline images.

The page needs no network and adapts to narrow screens and dark mode.
"""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

from patchpack.printable import printable

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; }
body { font: 16px/1.55 system-ui, sans-serif; margin: 0 auto; padding: 2rem 1rem; max-width: 60rem }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p { max-width: 44rem; margin: .4rem 0; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .25rem .9rem .25rem 0; text-align: right; }
th, td { border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; } .row > figure { flex: 1 1 20rem; }
figure { margin: .6rem 0; } figcaption { color: var(--soft); font-size: .88rem; }
th { cursor: pointer; } th[aria-sort=ascending]::after { content: " ↑"; }
th[aria-sort=descending]::after { content: " ↓"; }
"""
# A click on a column header sorts its table: numbers by value, other cells alphabetically.
SCRIPT = """
document.querySelectorAll('th').forEach(head => head.addEventListener('click', () => {
  const table = head.closest('table'), column = head.cellIndex;
  const down = head.ariaSort !== 'descending';
  const key = row => row.cells[column].textContent;
  const number = text => parseFloat(text.replace(/,/g, ''));
  const order = (a, b) => isNaN(number(a)) || isNaN(number(b))
    ? a.localeCompare(b) : number(a) - number(b);
  [...table.rows].slice(1).sort((a, b) => (down ? -1 : 1) * order(key(a), key(b)))
    .forEach(row => table.tBodies[0].append(row));
  table.querySelectorAll('th').forEach(other => other.ariaSort = null);
  head.ariaSort = down ? 'descending' : 'ascending';
}));
"""


@dataclass(frozen=True)
class Picture:
    """A PNG with its caption."""

    png: bytes
    caption: str


def _escape(text: str) -> str:
    """Plain text as HTML, in one line."""
    return html.escape(printable(text))


def page(title: str, summary: str, sections: Sequence[tuple[str, str]]) -> str:
    """Return an HTML document.

    summary   plain text below the title
    sections  (heading, HTML) pairs; headings are plain text
    """
    body = "".join(f"<section><h2>{_escape(h)}</h2>{content}</section>" for h, content in sections)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{_escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><h1>{_escape(title)}</h1>{paragraph(summary)}{body}"
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def paragraph(text: str) -> str:
    """Return plain text as an HTML paragraph, escaped."""
    return f"<p>{_escape(text)}</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table. The first column is left-aligned text, the others are numbers."""
    head = "".join(f"<th>{_escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{_escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<div class='scroll'><table><tr>{head}</tr>{body}</table></div>"


def pictures(*items: Picture) -> str:
    """Return HTML of pictures with captions, side by side if the screen is wide enough."""
    figures = "".join(
        f"<figure><img alt='{_escape(p.caption)}' "
        f"src='data:image/png;base64,{base64.b64encode(p.png).decode()}'>"
        f"<figcaption>{_escape(p.caption)}</figcaption></figure>"
        for p in items
    )
    return f"<div class='row'>{figures}</div>"
