"""What a report page is made of. All text is plain: the page's template escapes it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    kind: ClassVar = "note"
    text: str


@dataclass(frozen=True)
class Facts:
    """Terms and what there is to say about each."""

    kind: ClassVar = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header; the first `left` columns are texts, the others numbers."""

    kind: ClassVar = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


@dataclass(frozen=True)
class Meters:
    """How much of each limit is used: name, share (1 is all of it), text."""

    kind: ClassVar = "meters"
    rows: Sequence[tuple[str, float, str]]


@dataclass(frozen=True)
class Plot:
    """An interactive figure with `text` for those who do not see it, and its numbers as a table.

    `height` in pixels; a `wide` one scrolls sideways on a narrow screen. `views` are buttons: a label, and the ranges
    of the axes that it shows.
    """

    kind: ClassVar = "plot"
    title: str
    text: str
    figure: dict[str, Any]
    table: Table | None = None
    height: int = 380
    wide: bool = False
    views: Sequence[tuple[str, dict[str, Any]]] = ()


@dataclass(frozen=True)
class Picture:
    """An image as a data URI."""

    kind: ClassVar = "picture"
    text: str
    uri: str


@dataclass(frozen=True)
class Download:
    """A file inside the page, offered under the link `text`."""

    kind: ClassVar = "download"
    text: str
    file_name: str
    media_type: str
    content: str

    @property
    def uri(self) -> str:
        """The file as a data URI."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.content.encode()).decode()}"


Block = Note | Facts | Table | Meters | Plot | Picture | Download


@dataclass(frozen=True)
class Section:
    """A heading with blocks under it, and sections inside."""

    title: str
    blocks: Sequence[Block]
    inner: Sequence[Section] = ()
