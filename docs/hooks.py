"""Pages that are made when the site is built, so that nobody has to keep them true by hand.

The first page is the README. Configuration, API and the tree of files come from the packages themselves: from the
registry of kinds, the classes of config files, and the docstrings.
"""

import importlib
import inspect
import pkgutil
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "l2o": "What an optimizer is, and the trained ones. It knows nothing of training.",
    "tasks": "What is optimized.",
    "meta": "How an optimizer is learned.",
    "experiments": "What a person runs.",
}
BOUNDS = {
    "ge": "at least {}",
    "gt": "above {}",
    "le": "at most {}",
    "lt": "below {}",
    "min_length": "at least {} of them",
}
LISTED = ("kind", "description")  # fields that every class has, or that stand in its heading


def on_config(config):
    """The packages of this folder are the ones that are described."""
    sys.path.insert(0, str(ROOT))
    return config


def on_files(files, config):
    """Add the pages."""
    from mkdocs.structure.files import File  # here, as a test asks for a page without it

    pages = {"index.md": _front_page(), "examples.md": _examples(), "reference/tree.md": _tree()}
    pages["reference/config.md"] = _configuration()
    pages["reference/l2o.md"] = _public("l2o")
    for package in ("tasks", "meta", "experiments"):
        pages[f"reference/{package}.md"] = _modules_of(package)
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


# The front page and the examples


def _front_page() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.replace("](docs/", "](").replace("](examples)", "](examples.md)")


def _examples() -> str:
    parts = ["# Examples\n\nEach is one file of the folder `examples/`, and runs in less than a minute on two cores.\n"]
    for path in sorted((ROOT / "examples").glob("*.py")):
        docstring, code = path.read_text(encoding="utf-8").removeprefix('"""').split('"""', 1)
        title, _, rest = docstring.strip().partition("\n")
        parts.append(f"## {title.rstrip('.')}\n\n{rest.strip()}\n\n```\npython examples/{path.name}\n```\n")
        parts.append(f"```python\n{code.strip()}\n```\n")
    return "\n".join(parts)


# What lives where


def _first_line(path: Path) -> str:
    """The first sentence of a module's docstring, or its first line."""
    found = re.match(r'\s*[rR]?"""(.*?)"""', path.read_text(encoding="utf-8"), re.DOTALL)
    paragraph = " ".join(found[1].strip().split("\n\n")[0].split()) if found else ""
    return re.split(r"(?<=[.!?])\s(?=[A-Z])", paragraph)[0] if len(paragraph) > 160 else paragraph


def _description(path: Path) -> str:
    found = re.search(r'^description = "(.*)"$', path.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""


def _tree() -> str:
    parts = [
        "# What lives where\n\nEach package imports only from those before it. `import l2o` alone imports none of"
        " the others. The lines are the first ones of the files.\n"
    ]
    for package, what in PACKAGES.items():
        parts.append(f"## {package}\n\n{what}\n")
        folders: dict[Path, list[Path]] = {}
        for path in sorted((ROOT / package).rglob("*")):
            if path.suffix in (".py", ".toml") and "__pycache__" not in path.parts:
                folders.setdefault(path.parent, []).append(path)
        for folder, paths in sorted(folders.items()):
            name = folder.relative_to(ROOT).as_posix()
            init = folder / "__init__.py"
            if name != package:
                parts.append(f"### {name}/\n\n{_first_line(init) if init.exists() else ''}\n")
            rows = [(p.name, _first_line(p) if p.suffix == ".py" else _description(p)) for p in paths if p != init]
            if rows:
                parts.append("| file | |\n|---|---|")
                parts.extend(f"| `{file}` | {_cell(line)} |" for file, line in rows)
                parts.append("")
    return "\n".join(parts)


# Configuration


def _all_modules(package: str) -> list[str]:
    module = importlib.import_module(package)
    found = [m.name for m in pkgutil.walk_packages(module.__path__, f"{package}.") if not m.name.endswith("__main__")]
    return [package, *found]


def _subclasses(cls: type) -> list[type]:
    return [sub for direct in cls.__subclasses__() for sub in (direct, *_subclasses(direct))]


def _configuration() -> str:
    import l2o

    for package in PACKAGES:
        for name in _all_modules(package):
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:
                if (error.name or "").split(".")[0] in PACKAGES:
                    raise  # ours; a library that is an extra may be missing
            except l2o.UserError:
                pass  # what needs such a library says so
    document = next(cls for cls in l2o.Config.__subclasses__() if cls.__name__ == "Document")
    rooms = [cls for cls in l2o.Config.__subclasses__() if _ours(cls) and _kinds(cls)]
    documents = [
        cls for cls in dict.fromkeys(_subclasses(document)) if _ours(cls) and not issubclass(cls, tuple(rooms))
    ]
    documents.sort(key=lambda cls: cls.__name__)
    tables = [cls for cls in _used([*documents, *(kind for room in rooms for kind in _kinds(room).values())])]
    parts = [
        "# Configuration\n\nAll files are TOML. `--set FIELD=VALUE` overrides a field, e.g. `--set meta.steps=500`. An"
        " unknown field, a wrong type or a value out of range is refused with one sentence. A table whose type is a"
        " *room* needs a `kind`, one of those listed there; the other fields belong to that kind. This page comes from"
        " the classes that check the files.\n",
        "## Files\n\nWhat `l2o train` and `l2o data` read; `l2o study` reads a kind of [StudyConfig](#studyconfig)."
        " Every file may have a `description`.\n",
        *(_class(cls, cls.__name__) for cls in documents),
        "## Tables\n\nParts of those files that have no kind.\n",
        *(_class(cls, cls.__name__) for cls in tables),
    ]
    for room in sorted(rooms, key=lambda cls: cls.__name__):
        parts.append(f"## {room.__name__} {{ #{room.__name__.lower()} }}\n\nA room: {_summary(room)} {_rest(room)}\n")
        shared = {name for name in room.model_fields if name not in LISTED}
        if shared:
            parts.append(f"Every kind has these fields, some with another default.\n\n{_table(room, shared)}")
        for kind, cls in _kinds(room).items():
            parts.append(_class(cls, f'kind = "{kind}"', without=shared))
    return "\n".join(parts)


def _used(classes: list[Any]) -> list[Any]:
    """The tables without a kind that fields of these classes have, and those of their fields in turn."""
    found: dict[Any, None] = {}
    waiting = list(classes)
    while waiting:
        for field in waiting.pop(0).model_fields.values():
            for cls in _classes(field.annotation):
                if "kind" not in cls.model_fields and cls not in found:
                    found[cls] = None
                    waiting.append(cls)
    return list(found)


def _classes(annotation: Any) -> list[Any]:
    if hasattr(annotation, "model_fields"):
        return [annotation]
    return [cls for part in typing.get_args(annotation) for cls in _classes(part)]


def _anchor(cls: Any) -> str:
    """Where a class is described."""
    kind = cls.model_fields["kind"].default if "kind" in cls.model_fields else None
    room = _room(cls) or cls
    return f"{room.__name__.lower()}-{kind}" if isinstance(kind, str) else cls.__name__.lower()


def _room(cls: Any) -> Any:
    """The room of a kind: the nearest of its classes that is a configuration at first hand."""
    return next((base for base in cls.__mro__ if any(b.__name__ == "Config" for b in base.__bases__)), None)


def _ours(cls: type) -> bool:
    return cls.__module__.split(".")[0] in PACKAGES


def _kinds(room: type) -> dict[str, Any]:
    import l2o

    return {kind: cls for kind, cls in l2o.kinds(room).items() if _ours(cls)}


def _doc(cls: type) -> str:
    return inspect.cleandoc(cls.__doc__) if cls.__doc__ and not cls.__doc__.startswith("!!!") else ""


def _summary(cls: type) -> str:
    text = _doc(cls).split("\n\n")[0]
    return " ".join(text.split()).removeprefix("Room of ")


def _rest(cls: type) -> str:
    """What the docstring says between its first paragraph and its sections, examples left out."""
    paragraphs = re.split(r"\n\n(?=Attributes:|Args:|Raises:|Returns:|>>>)", _doc(cls))[0].split("\n\n")[1:]
    return "\n\n".join(paragraphs)


def _meanings(cls: type) -> dict[str, str]:
    """What docstrings say of the fields, those of base classes too."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        section = re.search(r"^Attributes:\n((?:[ ]+.*\n?|\n)+)", _doc(base) if base.__doc__ else "", re.MULTILINE)
        for entry in re.findall(r"^  (\w[\w, ]*): (.*(?:\n    .*)*)", section[1] if section else "", re.MULTILINE):
            for name in entry[0].split(", "):
                found[name] = " ".join(entry[1].split())
    return found


def _class(cls: Any, title: str, without: set[str] = frozenset()) -> str:  # type: ignore[assignment]
    names = {n for n in cls.model_fields if n not in LISTED and (n not in without or _changed(cls, n))}
    text = f"### {title} {{ #{_anchor(cls)} }}\n\n{_summary(cls)}\n\n{_rest(cls)}\n\n"
    return text + (_table(cls, names) if names else "It has no fields of its own.\n")


def _changed(cls: Any, name: str) -> bool:
    """Whether a field that the room has is another one here."""
    room = _room(cls)
    return room is None or repr(cls.model_fields[name]) != repr(room.model_fields[name])


def _table(cls: Any, names: set[str]) -> str:
    meanings = _meanings(cls)
    lines = ["| field | type | default | |", "|---|---|---|---|"]
    for name, field in cls.model_fields.items():
        if name in names:
            default = "needed" if field.is_required() else f"`{_value(field.get_default(call_default_factory=True))}`"
            kind = "; ".join([_type(field.annotation), *_limits(field.metadata)])
            lines.append(f"| `{name}` | {_cell(kind)} | {_cell(default)} | {_cell(meanings.get(name, ''))} |")
    return "\n".join(lines) + "\n"


def _limits(metadata: Any) -> list[str]:
    return [text.format(getattr(m, name)) for m in metadata for name, text in BOUNDS.items() if hasattr(m, name)]


def _type(annotation: Any) -> str:
    """A type as a reader of TOML knows it."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(args[0])
    if origin is typing.Literal:
        return " or ".join(f"`{_value(a)}`" for a in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(a) for a in args if a is not type(None)))
    if origin in (tuple, list):
        inner = dict.fromkeys(_type(a) for a in args if a is not Ellipsis)
        length = "" if Ellipsis in args or origin is list else f" of {len(args)}"
        return f"array{length}: " + ", ".join(inner)
    if origin is dict:
        return f"table: name = {_type(args[1])}"
    known = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "any value", Path: "path"}
    if annotation in known:
        return known[annotation]
    if not hasattr(annotation, "model_fields"):
        return getattr(annotation, "__name__", str(annotation))
    kind = annotation.model_fields["kind"].default if "kind" in annotation.model_fields else None
    return f"[{kind if isinstance(kind, str) else annotation.__name__}](#{_anchor(annotation)})"


def _value(value: Any) -> str:
    """A default as TOML has it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_value(v) for v in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_value(v)}" for k, v in value.items()) + "}"
    if hasattr(value, "model_dump"):
        given = {k: getattr(value, k) for k in type(value).model_fields if k == "kind" or k in value.model_fields_set}
        return _value(given)
    return str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


# API


def _public(package: str) -> str:
    module = importlib.import_module(package)
    parts = [f"# API of `{package}`\n\nWhat `import {package}` offers.\n"]
    for name in sorted(module.__all__, key=str.lower):
        found = getattr(module, name)
        parts.append(f"::: {found.__module__}.{found.__qualname__}\n")  # a module may have the name of its function
    for name in ("Sampler", "OptFormerSampler"):
        where = _module_with(f"class {name}(", package)
        parts.append(f"::: {where}.{name}\n    options:\n      members: false\n")
    return "\n".join(parts)


def _module_with(text: str, package: str) -> str:
    """The module whose source has a text; it is not imported, as it may need an extra."""
    paths = (ROOT / package).rglob("*.py")
    path = next(path for path in paths if text in path.read_text(encoding="utf-8"))
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _modules_of(package: str) -> str:
    parts = [f"# API of `{package}`\n\n{PACKAGES[package]} Each heading is a module.\n"]
    for name in _all_modules(package)[1:]:
        parts.append(
            f"## {name} {{ #module-{name} }}\n\n::: {name}\n    options:\n      show_root_heading: false\n"
            "      heading_level: 3\n"
        )
    return "\n".join(parts)
