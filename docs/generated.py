"""The pages that are made from the code when the site is built: the commands, and what `import maenas` offers."""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import typer.main

import maenas
from detector.data.settings import AugmentSettings
from detector.recipe import PRESETS, Distillation, Recipe
from maenas.cli.main import app

KINDS = {"str": "TEXT", "int": "N", "float": "X", "path": "PATH", "bool": ""}
NOT_DOCUMENTED = ("--help", "--install-completion", "--show-completion")


def commands_page() -> str:
    """Markdown: every command with its arguments, options and defaults, as `--help` shows them."""
    return "\n".join(_command("maenas", typer.main.get_command(app)))


def _command(name: str, command: Any) -> Iterator[str]:
    group = getattr(command, "commands", None)
    if name != "maenas":
        yield f"{'##' if name.count(' ') == 1 else '###'} {name}\n"
        yield _paragraphs(command.help or "") + "\n"
    if group is None:
        yield from _options(name, command)
    for child, inner in sorted((group or {}).items()):
        if not inner.hidden:
            yield from _command(f"{name} {child}", inner)


def _options(name: str, command: Any) -> Iterator[str]:
    context = command.context_class(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```text\n{name} {usage}\n```\n"
    records = [param.get_help_record(context) for param in command.params if not param.hidden]
    rows = [(option, text) for option, text in filter(None, records) if not option.startswith(NOT_DOCUMENTED)]
    if rows:
        yield "| argument or option | meaning |\n| --- | --- |"
        yield from (f"| `{_name(option)}` | {_cell(text)} |" for option, text in rows)
        yield ""


def _name(option: str) -> str:
    """`--device <list[str]>` -> `--device TEXT ...`."""
    name, _, kind = option.partition(" <")
    kind = kind.removesuffix(">")
    many = kind.startswith("list[") and not name.endswith("...")
    word = KINDS.get(kind.removeprefix("list[").removesuffix("]"), kind.replace("|", " or "))
    return " ".join([name, *([word] if word and name.startswith("-") else ()), *(["..."] if many else ())])


def _cell(text: str) -> str:
    """Help of one option as the cell of a table."""
    text = re.sub(r"\s+", " ", text.replace("\\[", "[")).replace("|", "\\|")
    return re.sub(r"(?<![`\w])(--[a-z][\w-]*)", r"`\1`", text).replace("<", "&lt;")


def _paragraphs(text: str) -> str:
    return re.sub(r"(?<![`\w-])(--[a-z][\w-]*)", r"`\1`", inspect.cleandoc(text)).replace("<", "&lt;")


def api_page() -> str:
    """Markdown: every public name of `maenas` with its signature and docstring."""
    return "\n".join(part for name in public_names() for part in _member(name, getattr(maenas, name)))


def public_names() -> list[str]:
    return [name for name in getattr(maenas, "__all__", ()) if not name.startswith("_")]


def _member(name: str, value: Any) -> Iterator[str]:
    yield f"## {name}\n"
    if isinstance(value, ModuleType):
        yield f"The module `{value.__name__}`.\n"
    elif callable(value):
        yield f"```python\n{name}{_signature(value)}\n```\n"
    yield _docstring(value) + "\n"
    if inspect.isclass(value):
        yield from _class(value)


def _class(cls: type) -> Iterator[str]:
    if dataclasses.is_dataclass(cls):
        fields = [field for field in dataclasses.fields(cls) if not field.name.startswith("_")]
        yield "\n".join(f"- `{field.name}: {_type(field.type)}`" for field in fields) + "\n"
    for name, member in vars(cls).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        returns = inspect.signature(function).return_annotation
        signature = f": {_type(returns)}" if isinstance(member, property) else _signature(function)
        yield f"### {cls.__name__}.{name}\n"
        yield f"```python\n{cls.__name__}.{name}{signature}\n```\n"
        yield _docstring(function) + "\n"


def _type(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return text.replace("'", "")


def _signature(value: Any) -> str:
    """One line where it fits into 72 characters, else one parameter a line."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return "(...)"
    words, keyword_only = [], False
    for parameter in signature.parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        keyword_only |= parameter.kind is parameter.VAR_POSITIONAL
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            words.append("*")
            keyword_only = True
        words.append(_parameter(parameter))
    returns = signature.return_annotation
    arrow = "" if returns is signature.empty else f" -> {_type(returns)}"
    short = f"({', '.join(words)}){arrow}"
    return short if len(short) <= 72 else "(\n" + "".join(f"    {word},\n" for word in words) + f"){arrow}"


def _parameter(parameter: inspect.Parameter) -> str:
    """`name: type = default`; a default that says nothing to a reader is an ellipsis."""
    name = str(parameter.replace(annotation=parameter.empty, default=parameter.empty))
    typed = name if parameter.annotation is parameter.empty else f"{name}: {_type(parameter.annotation)}"
    if parameter.default is parameter.empty:
        return typed
    default = repr(parameter.default)
    return f"{typed} = {default if len(default) <= 40 and ' at 0x' not in default else '...'}"


def _docstring(value: Any) -> str:
    """The docstring as Markdown: indented lines stay a block of their own, everything else is text."""
    text = inspect.cleandoc(value.__doc__ or "")
    return re.sub(r"(?<!`)<(?=\w)", "&lt;", text)


def recipe_page() -> str:
    """Markdown: every setting of a recipe with its default and its comment in the source, and what presets change."""
    groups = [("", Recipe), ("augment.", AugmentSettings), ("distill.", Distillation)]
    lines = ["## Settings", "", "| key | default | meaning |", "| --- | --- | --- |"]
    lines += [row for prefix, cls in groups for row in _settings(prefix, cls)]
    base = _flat(dataclasses.asdict(PRESETS["damo"]))
    lines += ["", "## Presets", "", "`damo` has the defaults above. The other presets change:", ""]
    for name, recipe in PRESETS.items():
        changed = {key: value for key, value in _flat(dataclasses.asdict(recipe)).items() if value != base[key]}
        if changed:
            lines.append(f"- `{name}`: " + ", ".join(f"`{key}` {_value(value)}" for key, value in changed.items()))
    return "\n".join(lines) + "\n"


def _settings(prefix: str, cls: type) -> Iterator[str]:
    comments = _comments(cls)
    for field in dataclasses.fields(cls):
        value = getattr(cls(), field.name)
        if not dataclasses.is_dataclass(value):
            yield f"| `{prefix}{field.name}` | {_value(value)} | {comments.get(field.name, '')} |"


def _comments(cls: type) -> dict[str, str]:
    """Of each field the comment at the end of its line, else the lines of comment right above it."""
    found, above = {}, []
    for line in inspect.getsource(cls).splitlines():
        text = line.strip()
        if text.startswith("#"):
            above.append(text.removeprefix("#").strip())
            continue
        if match := re.match(r"(\w+): .*?(?:  # (.*))?$", text):
            note = match[2] or (" ".join(above) if len(above) > 1 else "")
            found[match[1]] = note.replace("|", "\\|")
        above = []
    return found


def _flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in document.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _value(value: Any) -> str:
    if isinstance(value, float) and not value.is_integer():
        return f"`{value:.4g}`"
    return f"`{'null' if value is None else str(value).lower() if isinstance(value, bool) else value}`"


PAGES = {"formats/recipe": recipe_page, "reference/api": api_page, "reference/commands": commands_page}
