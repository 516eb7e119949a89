"""What every step's command line shares: settings as JSON, the code check, clear errors."""

import errno
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import PipelineError
from pipeline.progress import speaks, start_logging

SETTINGS_LIMIT = 100_000
# A full disk, a quota, a limit on a file's size, a file system or folder that may not be written to.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)

SettingsOption = Annotated[str, typer.Option("--settings", help="The step's settings, as one JSON object.")]
CodeOption = Annotated[
    str, typer.Option("--code", help="Stop unless the code has this digest (MODULE+MODULE=HEX).")
]


class GivenSettings(dict[str, Any]):
    """A JSON object of a command line; a key that a step needs and that is not there has its name told."""

    def __missing__(self, key: str) -> Any:
        found = ", ".join(self) or "no key"
        raise PipelineError(f"--settings: {key!r} is missing; found {found}")


@dataclass(frozen=True)
class Step:
    """One execution of a step: its name, its settings and the digest of its code."""

    name: str
    settings: dict[str, Any]
    code: str

    def provenance(self, **inputs: Path | str) -> Any:
        """The record of a file made from `inputs` (paths, or digests already known)."""
        from pipeline.provenance import Provenance, digest_of_file

        digests = {
            name: digest_of_file(value) if isinstance(value, Path) else value
            for name, value in inputs.items()
        }
        return Provenance(self.name, self.settings, self.code, digests)


@contextmanager
def begin(name: str, settings: str, code: str, section: str = "", without: str = "") -> Iterator[Step]:
    """Parse the settings, check the code, and hold the step to the code it declared.

    Args:
        name: The step's module.
        settings: As JSON.
        code: The digest that the job was given; empty for a step that is run by hand.
        section: The section of the config that the settings are an entry of. Those of a step run by
            hand are then checked, and what they leave out gets its default.
        without: A key of such entries that the step does not take.

    Raises:
        PipelineError: If the settings are no JSON object or above 100 kB, if the code differs
            from the digest that the job was given, or if the step loaded code outside it.
    """
    from pipeline.provenance.code import CodeDigest, code_digest, covered_modules, is_without_effect

    given = CodeDigest.parse(code) if code else code_digest(name)
    found = code_digest(*given.modules)
    if found != given:
        raise PipelineError(
            f"{name}: its code has changed since this job was made (digest {given.digest} then, "
            f"{found.digest} now). Run snakemake again, so that the change is seen."
        )
    values = _parse_settings(name, settings)
    if section and not code:
        from pipeline.config.loading import complete_settings

        values = complete_settings(section, values, without)
    yield Step(name, values, str(given))
    loaded = {module for module in sys.modules if module.split(".")[0] == "pipeline"}
    outside = {module for module in loaded if not is_without_effect(module)}
    outside -= covered_modules(given.modules)
    if code and outside:
        raise PipelineError(f"{name}: loaded code outside its digest: {', '.join(sorted(outside))}")


def run_command(main: Callable[..., None]) -> None:
    """Run `main` as a command; user errors end with their message and status 1."""
    app = new_app(no_args_is_help=False)
    app.command()(main)
    run_app(app)


def new_app(no_args_is_help: bool = True) -> typer.Typer:
    """A Typer app with plain help pages: the decorated ones cost 0.2 s in every job."""
    return typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        no_args_is_help=no_args_is_help,
    )


def run_app(app: typer.Typer) -> None:
    """Run a Typer app under the same rules as `run_command`."""
    start_logging()
    try:
        app()
    except PipelineError as error:
        sys.exit(f"error: {error}" if speaks() else 1)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        sys.exit(
            f"error: {error.filename or 'output'}: cannot be written or read ({error.strerror}). "
            "Nothing already computed is lost; make room or access, and run again."
        )


def _parse_settings(name: str, text: str) -> dict[str, Any]:
    if len(text.encode()) > SETTINGS_LIMIT:
        raise PipelineError(
            f"{name}: settings of {len(text.encode()):,} bytes; at most {SETTINGS_LIMIT:,} fit "
            "on a command line"
        )
    try:
        settings = json.loads(text, object_hook=GivenSettings)
    except json.JSONDecodeError as error:
        raise PipelineError(f"{name}: --settings is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise PipelineError(f"{name}: --settings must be a JSON object, found {text[:40]!r}")
    return settings
