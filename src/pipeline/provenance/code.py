"""The digest of the source code that a step can reach.

Snakemake does not see edits in imported modules. Each rule therefore declares the digest of its
step's import closure as a parameter, and the step recomputes it before it starts. The digest is
taken of the syntax tree without docstrings, so comments and formatting change nothing; templates
and style sheets of a package belong to it as they are.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pipeline.errors import PipelineError
from pipeline.provenance.index import is_settled, read_index, write_index

PACKAGE = "pipeline"
SOURCES = Path(__file__).resolve().parent.parent

# Code that cannot change what a step computes: how it is called, what it shows, what is logged.
# `config` resolves settings, and resolved settings travel to the step in full.
WITHOUT_EFFECT = (
    "pipeline.command",
    "pipeline.config",
    "pipeline.errors",
    "pipeline.progress",
    "pipeline.tracking",
)
# What a package's code reads beside its modules, such as the template of a page.
PACKAGE_DATA = (".j2", ".css")


class Module(NamedTuple):
    """What one module adds to a digest: its own, and the names that it imports."""

    digest: str
    imports: tuple[str, ...]


class Modules(Protocol):
    """The modules of ``pipeline`` by their dotted names; a dict is one."""

    def __contains__(self, name: object, /) -> bool:
        """Whether there is such a module."""

    def __getitem__(self, name: str, /) -> Module:
        """The module of that name."""


class CodeDigest(NamedTuple):
    """A digest together with the modules it starts from, written ``module+module=hex``."""

    modules: tuple[str, ...]
    digest: str

    def __str__(self) -> str:
        return f"{'+'.join(self.modules)}={self.digest}"

    @classmethod
    def parse(cls, text: str) -> "CodeDigest":
        """Read what ``str()`` wrote; raises PipelineError for anything else."""
        modules, separator, digest = text.partition("=")
        if not (modules and separator and digest):
            raise PipelineError(f"--code: found {text!r}, expected MODULE+MODULE=DIGEST")
        return cls(tuple(modules.split("+")), digest)


def code_digest(step: str, *components: str, modules: Modules | None = None) -> CodeDigest:
    """Digest the sources that `step` and the named `components` can reach through imports.

    Args:
        step: Dotted name of a module or package inside ``pipeline``; of a package, its
            ``__main__`` belongs to it.
        components: Dotted names of modules that the settings name (an objective, a reader).
        modules: The modules as `all_modules` gave them; by default as their files are now.

    Raises:
        PipelineError: If a named module does not exist.
    """
    known = modules or OnDisk()
    starts = (step, *sorted(set(components)))
    total = hashlib.sha256()
    for name in sorted(covered_modules(starts, known)):
        total.update(f"{name}\0{known[name].digest}\n".encode())
    return CodeDigest(starts, total.hexdigest()[:16])


def covered_modules(starts: Iterable[str], modules: Modules | None = None) -> set[str]:
    """All modules of ``pipeline`` that the given ones import, directly or not, with themselves."""
    known = modules or OnDisk()
    covered: set[str] = set()
    waiting = [name for start in starts for name in _entry_points(start, known)]
    while waiting:
        name = waiting.pop()
        if name in covered or is_without_effect(name):
            continue
        covered.add(name)
        imported = (import_ for import_ in known[name].imports if import_ in known)
        waiting.extend(ancestor for import_ in imported for ancestor in _with_ancestors(import_))
    return covered


def is_without_effect(module: str) -> bool:
    """Whether `module` lies outside every digest."""
    return any(module == name or module.startswith(f"{name}.") for name in WITHOUT_EFFECT)


def all_modules(index: Path | None = None) -> dict[str, Module]:
    """Every module that can change a result, as its source is now.

    Args:
        index: JSON file that remembers the modules with size and time of their files, so that
            unchanged ones are not parsed again. It is only a cache: made if missing, ignored if
            broken, and not kept where it cannot be written.

    Raises:
        PipelineError: If a module is not valid Python.
    """
    remembered, kept, found = read_index(index), {}, {}
    for name in _names():
        stamp = _stamp(name)
        match remembered.get(name):
            case [known, str(digest), [*imports]] if known == stamp:
                found[name] = Module(digest, tuple(imports))
            case _:
                found[name] = _module(name)
        if all(is_settled(changed) for _, _, changed in stamp):
            kept[name] = [stamp, found[name].digest, list(found[name].imports)]
    if kept != remembered:
        write_index(index, kept)
    return found


class OnDisk:
    """The modules as their files are now, each parsed when it is asked for."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _source(name) is not None

    def __getitem__(self, name: str) -> Module:
        return _module(name)


def _entry_points(module: str, modules: Modules) -> Iterator[str]:
    if module not in modules:
        raise PipelineError(f"code digest: no module named {module!r} below {SOURCES}")
    yield from _with_ancestors(module)
    if f"{module}.__main__" in modules:
        yield f"{module}.__main__"


def _with_ancestors(module: str) -> Iterator[str]:
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])


def _names() -> list[str]:
    """All modules that can change a result, sorted."""
    parts = (path.relative_to(SOURCES).with_suffix("").parts for path in SOURCES.rglob("*.py"))
    names = {".".join((PACKAGE, *part)).removesuffix(".__init__") for part in parts}
    return sorted(name for name in names if not is_without_effect(name))


@cache
def _source(module: str) -> Path | None:
    if module != PACKAGE and not module.startswith(f"{PACKAGE}."):
        return None
    base = SOURCES.joinpath(*module.split(".")[1:])
    for candidate in (base / "__init__.py", base.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


@cache
def _module(name: str) -> Module:
    source, *data = _files(name)
    try:
        tree = ast.parse(source.read_bytes(), filename=str(source))
    except SyntaxError as error:
        raise PipelineError(f"{source}:{error.lineno}: not valid Python ({error.msg})") from error
    imports = tuple(_imports(tree, name if source.name == "__init__.py" else name.rpartition(".")[0]))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_docstring(node)
    total = hashlib.sha256(ast.dump(tree).encode())
    for file in data:
        total.update(f"{file.name}\0{file.read_text(encoding='utf-8')}".encode())
    return Module(total.hexdigest(), imports)


def _files(module: str) -> list[Path]:
    """A module's source, and the data of its package where it is one."""
    source = _source(module)
    assert source is not None
    if source.name != "__init__.py":
        return [source]
    return [source, *sorted(file for file in source.parent.iterdir() if file.suffix in PACKAGE_DATA)]


def _drop_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
    if ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:]


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Names that may be modules of ``pipeline`` and are imported, inside functions too."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = _absolute(node, package)
            names = [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.split(".")[0] == PACKAGE)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if node.level == 0:
        return node.module or ""
    base = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _stamp(module: str) -> list[list[Any]]:
    """Name, size and time of each file of a module."""
    status = [(file.name, file.stat()) for file in _files(module)]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in status]
