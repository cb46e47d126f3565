"""Templates, assets and the headers of a page.

Assets have names with the hash of their content and may be kept for ever; pages are never kept.  The policy allows no
inline style, script or handler, and nothing from elsewhere.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from http import HTTPStatus
from importlib import resources
from typing import Any, Final
from urllib.parse import quote, urlencode

import jinja2
from fastapi import Response
from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from syncworker.errors import meaning_of
from syncworker.ops.words import instant
from syncworker.web.dashboard import words

PATH: Final = "/ops"
POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": POLICY,
    # not no-referrer: browsers would send `Origin: null` with our own forms, and the check of the origin would fail
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}
FOR_EVER: Final = "public, max-age=31536000, immutable"
HTML: Final = "text/html; charset=utf-8"

_TYPES: Final = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
_FOLDER: Final = resources.files("syncworker.web.dashboard").joinpath("static")


def _assets() -> dict[str, tuple[str, bytes]]:
    found = {}
    for file in ("style.css", "ops.js"):
        content = _FOLDER.joinpath(file).read_bytes()
        stem, _, kind = file.partition(".")
        found[file] = (f"{stem}.{hashlib.sha256(content).hexdigest()[:12]}.{kind}", content)
    return found


ASSETS: Final = _assets()
"""By file: the name it is served under, and its content."""

_BY_NAME: Final = dict(ASSETS.values())


def asset(name: str) -> Response | None:
    """An asset by its name with hash; `None` when there is none."""
    content = _BY_NAME.get(name)
    if content is None:
        return None
    return Response(
        content,
        media_type=_TYPES[name.rpartition(".")[2]],
        headers={"cache-control": FOR_EVER, "content-security-policy": "default-src 'none'"},
    )


def link(*parts: str | int, **query: Any) -> str:
    """A path of ours: every part is quoted, query values that are `None` are left out."""
    path = "/".join([PATH, *(quote(str(part), safe="") for part in parts)])
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def page(template: str, status: HTTPStatus = HTTPStatus.OK, **values: Any) -> Response:
    """A page of a template."""
    html = _PAGES.get_template(template).render(**values)
    return Response(html, status_code=status.value, headers=dict(HEADERS), media_type=HTML)


# -- what templates call -----------------------------------------------------------------------------------------


def _time(at: datetime, text: str) -> Markup:
    return Markup('<time dir="auto" datetime="{}" data-at="{}" title="{}">{}</time>').format(
        words.machine(at), instant(at), instant(at), text
    )


@pass_context
def age(context: Context, at: datetime | None, never: str = "never") -> Markup:
    """How long ago an instant was, or how long it is until then."""
    if at is None:
        return Markup('<span class="faint">{}</span>').format(never)
    return _time(at, words.span(abs(context["now"] - at)))


@pass_context
def ago(context: Context, at: datetime | None, never: str = "never") -> Markup:
    """`2 h 25 min ago`, `in 3 h`; `now` within a second."""
    if at is None:
        return Markup('<span class="faint">{}</span>').format(never)
    now: datetime = context["now"]
    if abs(now - at) < timedelta(seconds=1):
        return _time(at, "now")
    return _time(at, f"in {words.span(at - now)}" if at > now else f"{words.span(now - at)} ago")


def at_(at: datetime | None) -> Markup:
    """An instant in UTC."""
    return Markup("–") if at is None else _time(at, instant(at))


def on(at: datetime) -> Markup:
    """A date with its instant."""
    return _time(at, words.day(at))


def icon(name: str, tone: str = "") -> Markup:
    """An icon of the sprite."""
    return Markup('<svg class="icon {}" aria-hidden="true"><use href="#i-{}"/></svg>').format(tone, name)


def st(shown: words.Shown, word: str | None = None) -> Markup:
    """A state: icon, word, colour."""
    return Markup('<span class="st {}">{}<bdi>{}</bdi></span>').format(
        shown.tone, icon(shown.icon), shown.word if word is None else word
    )


def tag(shown: words.Shown, word: str | None = None) -> Markup:
    """A state as a tag beside a title."""
    return Markup('<span class="tag {}">{}<bdi>{}</bdi></span>').format(
        shown.tone, icon(shown.icon), shown.word if word is None else word
    )


def code(text: str | None) -> Markup:
    """A stable code, with what it means."""
    if not text:
        return Markup("–")
    return Markup('<span class="id" title="{}">{}</span>').format(meaning_of(text), text)


def ident(text: str | None, shown: str | None = None) -> Markup:
    """An id, whole unless a shorter form is given."""
    if not text:
        return Markup('<span class="faint">–</span>')
    if shown is None:
        return Markup('<bdi class="id">{}</bdi>').format(text)
    return Markup('<bdi class="id" title="{}">{}</bdi>').format(text, shown)


def step(text: str) -> Markup:
    """A next step as a sentence; what stands between backticks is a command."""
    parts = words.sentence(text).split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)
    )


def chart(figure: Any, extra: str = "") -> Markup:
    """A `charts.Chart` as SVG."""
    bars = Markup("").join(
        Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
            bar.tone, bar.x, bar.y, bar.width, bar.height
        )
        for bar in figure.bars
    )
    return Markup(
        '<svg class="chart {}" viewBox="0 0 {} 100" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(extra, figure.width, figure.said, bars)


_PAGES: Final = jinja2.Environment(
    loader=jinja2.PackageLoader("syncworker.web.dashboard"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGES.filters["step"] = step
_PAGES.filters["format_time"] = lambda form, at: f"{at:{form}}"
_PAGES.globals.update(
    age=age, ago=ago, at=at_, on=on, icon=icon, st=st, tag=tag, code=code, ident=ident, chart=chart, link=link,
    root=f"{PATH}/", assets={file: f"{PATH}/static/{name}" for file, (name, _) in ASSETS.items()},
    count=words.count, dirhams=words.dirhams, fils=words.fils, span=words.span, rough=words.rough,
    ms=words.milliseconds, size=words.size, tail=words.tail, head=words.head, outcome=words.outcome,
    label=words.label, status=words.status,
    http=words.http, percent=words.percent, short=words.short, day=words.day, instant=instant,
    dubai=words.dubai, machine=words.machine, Shown=words.Shown, meaning=meaning_of, escape=escape,
)  # fmt: skip
