"""XML files of annotations."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from maenas.errors import MaenasError
from maenas.files import read_text


def read_xml(path: Path, *, what: str, max_bytes: int) -> ElementTree.Element:
    """The root of an XML file; raises MaenasError, which calls a file that cannot be read `what`.

    A file with entities is refused: they can be made to fill the memory.
    """
    text = read_text(path, what=what, max_bytes=max_bytes)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise MaenasError(f"{path}: document types and entities are not read; remove them")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise MaenasError(f"{path}:{error.position[0]}: not valid XML: {error}") from error
