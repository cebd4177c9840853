"""Strict readers: JSON or YAML text to frozen dataclasses, and back to JSON.

Whatever is wrong with the text becomes one MaenasError that names the place. The types to be read are standard frozen
dataclasses that carry ``__pydantic_config__ = STRICT``. Only the readers import pydantic: the dataclasses stay cheap.
"""

from maenas.strict.json import parse_json
from maenas.strict.validation import STRICT
from maenas.strict.writer import dump_json
from maenas.strict.yaml import MAX_YAML_BYTES, PlainLoader, parse_yaml

__all__ = ["MAX_YAML_BYTES", "STRICT", "PlainLoader", "dump_json", "parse_json", "parse_yaml"]
