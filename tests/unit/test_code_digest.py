"""The digest of a step's code: what counts, what does not, and that a step holds to it."""

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.compute as compute
import pyarrow.parquet as parquet
import pytest

from pipeline.errors import PipelineError
from pipeline.provenance import CodeDigest, Provenance, code
from pipeline.provenance.code import code_digest, covered_modules, is_without_effect
from pipeline.tables import feature_column, read_table, write_table

SOURCES = code.SOURCES
MINIATURE = {
    "__init__": '"""A package."""\n',
    "errors": "class PipelineError(Exception): ...\n",
    "command": "from pipeline.config import model\ndef begin(): return 1\n",
    "progress": "def bar(): return 1\n",
    "tracking.__init__": "",
    "tracking.follow": "def follow(): return 1\n",
    "config.__init__": "from pipeline import unrelated\n",
    "config.model": "import pipeline.unrelated\nclass Config: ...\n",
    "step.__init__": "def named(): return 1\n",
    "step.__main__": (
        "from pipeline.command import begin\n"
        "from pipeline import progress, tracking, errors\n"
        "def main():\n"
        "    from pipeline.step.work import work\n"
        "    return work()\n"
    ),
    "step.work": (
        '"""The work."""\n'
        "from pipeline.library.direct import one\n"
        "from . import sibling\n"
        "from ..library.inner.deep import deep\n"
        "\n"
        "def work(number=1):\n"
        '    """Work."""\n'
        "    import pipeline.library.late\n"
        "    # Ones.\n"
        "    return [one(), number]\n"
        "\n"
        "class Worker:\n"
        '    """Works."""\n'
        "    async def work(self):\n"
        '        """Work."""\n'
    ),
    "step.sibling": "def other(): return 1\n",
    "library.__init__": "",
    "library.direct": "import pipeline.library.transitive as far\ndef one(): return far.far()\n",
    "library.transitive": "def far(): return 1\n",
    "library.late": "def late(): return 1\n",
    "library.inner.__init__": "from .gathered import gathered\n",
    "library.inner.deep": "def deep(): return 1\n",
    "library.inner.gathered": "def gathered(): return 1\n",
    "components.__init__": "",
    "components.first": "def build(): return 1\n",
    "components.second": "def build(): return 1\n",
    "unrelated": "def nothing(): return 1\n",
}


def dotted(name: str) -> str:
    return f"pipeline.{name}".removesuffix(".__init__")


def forget() -> None:
    """Make the digest look at the sources again."""
    for remembered in (code._source, code._module):
        remembered.cache_clear()


def digest(*modules: str) -> str:
    """The digest of the sources as they are now."""
    forget()
    return code_digest(*modules).digest


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to stand in for the package's."""
    monkeypatch.setattr(code, "SOURCES", tmp_path / "pipeline")
    forget()
    yield tmp_path / "pipeline"
    forget()


@pytest.fixture
def miniature(sources: Path) -> Callable[[str], Path]:
    """A small package in place of ``pipeline``; gives the file of a module."""

    def file(module: str) -> Path:
        return sources.joinpath(*module.split(".")).with_suffix(".py")

    for module, text in MINIATURE.items():
        file(module).parent.mkdir(parents=True, exist_ok=True)
        file(module).write_text(text)
    return file


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {file}"
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# Ones.", "# Two ones."),
        ("    # Ones.\n", ""),
        ('"""The work."""\n', ""),
        ('"""The work."""', "'''What is done,\n\nand how.'''"),
        ('def work(number=1):\n    """Work."""\n', "def work(number=1):\n"),
        ('    """Works."""\n', '    """Works well."""\n'),
        ('        """Work."""\n', '        """Work well."""\n'),
        ("return [one(), number]", "return [\n        one(),\n        number,\n    ]"),
        ("def work(number=1):", "def work( number = 1 ) :"),
        ("return [one(), number]", "return ([one(), (number)])"),
        ("\n\nclass", "\n\n\n\nclass"),
    ],
)
def test_what_cannot_change_a_result_changes_no_digest(
    miniature: Callable[[str], Path], old: str, new: str
) -> None:
    before = digest("pipeline.step")
    edit(miniature("step.work"), old, new)
    assert digest("pipeline.step") == before


def modules_by(index: Path | None) -> dict[str, code.Module]:
    forget()
    return code.all_modules(index)


def made_long_ago(sources: Path, ago: float = 60) -> None:
    for file in sources.rglob("*"):
        os.utime(file, (time.time() - ago,) * 2)


def test_all_modules_give_the_digests_that_the_files_give(miniature: Callable[[str], Path]) -> None:
    found = modules_by(None)
    assert set(found) == {name for name in map(dotted, MINIATURE) if not is_without_effect(name)}
    assert code_digest("pipeline.step", modules=found) == code_digest("pipeline.step")


def test_an_index_spares_the_parsing_of_unchanged_modules(
    sources: Path, miniature: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, parsed = tmp_path / "folder" / "code.json", []
    made_long_ago(sources)
    first = modules_by(index)
    parse = ast.parse
    monkeypatch.setattr(ast, "parse", lambda text, filename: parsed.append(filename) or parse(text, filename))
    assert modules_by(index) == first
    assert not parsed
    edit(miniature("step.work"), "number=1", "number=2")
    assert modules_by(index)["pipeline.step.work"] != first["pipeline.step.work"]
    assert parsed == [str(miniature("step.work"))]
    # Only just written, so not remembered: an edit within the clock's tick would go unseen.
    assert modules_by(index)["pipeline.step.work"] != first["pipeline.step.work"]
    assert len(parsed) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pipeline.step": 3, "pipeline.step.work": [1, 2, 3]}'])
def test_a_broken_index_is_as_good_as_none(
    miniature: Callable[[str], Path], tmp_path: Path, content: str
) -> None:
    (tmp_path / "code.json").write_text(content)
    assert modules_by(tmp_path / "code.json") == modules_by(None)


def test_a_module_that_does_not_parse_is_named(miniature: Callable[[str], Path]) -> None:
    miniature("components.first").write_text("def build(:\n")
    with pytest.raises(PipelineError, match=r"first\.py:1: not valid Python"):
        modules_by(None)


def test_a_touch_a_copy_and_another_line_ending_change_no_digest(miniature: Callable[[str], Path]) -> None:
    before = digest("pipeline.step")
    file = miniature("step.work")
    os.utime(file, (1, 1))
    assert digest("pipeline.step") == before
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert digest("pipeline.step") == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("number=1", "number=2"),
        ("return [one(), number]", "return [number, one()]"),
        ("def work(number=1)", "def work(number: int = 1)"),
        ("class Worker", "class Labourer"),
        ("async def", "def"),
        ("# Ones.", "print('a string is no comment')"),
        ("    # Ones.", "    '''Nor is this a docstring, so far down.'''"),
        ("from . import sibling\n", ""),
    ],
)
def test_an_edit_of_the_code_changes_the_digest(miniature: Callable[[str], Path], old: str, new: str) -> None:
    before = digest("pipeline.step")
    edit(miniature("step.work"), old, new)
    assert digest("pipeline.step") != before


@pytest.mark.parametrize(
    ("module", "how"),
    [
        ("step.__init__", "its own package"),
        ("step.__main__", "its command"),
        ("step.work", "imported inside a function"),
        ("library.direct", "imported"),
        ("library.transitive", "imported by an import, under another name"),
        ("library.late", "imported inside a function, by its full name"),
        ("step.sibling", "imported relatively"),
        ("library.inner.deep", "imported relatively, from further up"),
        ("library.inner.gathered", "imported by an ancestor's __init__"),
    ],
)
def test_the_digest_covers_a_module(miniature: Callable[[str], Path], module: str, how: str) -> None:
    before = digest("pipeline.step")
    edit(miniature(module), "return", "assert True; return")
    assert digest("pipeline.step") != before, how


def test_the_digest_covers_ancestors_that_only_hold_the_imported(miniature: Callable[[str], Path]) -> None:
    for module in ("__init__", "library.__init__"):
        before = digest("pipeline.step")
        file = miniature(module)
        file.write_text(f"{file.read_text()}\nsetting = 1\n")
        assert digest("pipeline.step") != before


@pytest.mark.parametrize(
    "module",
    ["command", "config.__init__", "config.model", "errors", "progress", "tracking.follow", "unrelated"],
)
def test_the_digest_leaves_out_what_has_no_effect(miniature: Callable[[str], Path], module: str) -> None:
    before = digest("pipeline.step")
    file = miniature(module)
    file.write_text(f"{file.read_text()}\ndef added(): return 2\n")
    assert digest("pipeline.step") == before


def test_components_count_and_their_order_does_not(miniature: Callable[[str], Path]) -> None:
    first, second = "pipeline.components.first", "pipeline.components.second"
    before = {names: digest("pipeline.step", *names) for names in [(), (first,), (second,), (first, second)]}
    assert len(set(before.values())) == 4
    assert digest("pipeline.step", second, first, second) == before[first, second]
    edit(miniature("components.first"), "return 1", "return 2")
    changed = {names for names in before if digest("pipeline.step", *names) != before[names]}
    assert changed == {(first,), (first, second)}


def test_a_template_counts_with_its_package(miniature: Callable[[str], Path]) -> None:
    template, notes = miniature("library.inner.__init__").with_name("page.j2"), miniature("step.notes")
    before = digest("pipeline.step")
    notes.with_suffix(".md").write_text("not read by any step")
    miniature("components.__init__").with_name("other.css").write_text("b {}")
    assert digest("pipeline.step") == before
    template.write_text("{{ page }}")
    with_template = digest("pipeline.step")
    assert with_template != before
    template.write_text("{{ page }}!")
    assert digest("pipeline.step") != with_template


def test_a_renamed_module_changes_the_digest(miniature: Callable[[str], Path]) -> None:
    before = digest("pipeline.step")
    miniature("step.sibling").rename(miniature("step.brother"))
    edit(miniature("step.work"), "import sibling", "import brother as sibling")
    assert digest("pipeline.step") != before


@pytest.mark.parametrize("modules", [("pipeline.stop",), ("pipeline.step", "pipeline.components.third")])
def test_an_unknown_module_is_named(miniature: Callable[[str], Path], modules: tuple[str, ...]) -> None:
    with pytest.raises(PipelineError, match=f"no module named '{modules[-1]}'"):
        code_digest(*modules)


def test_a_digest_reads_what_it_writes() -> None:
    made = code_digest("pipeline.selection", "pipeline.selection.uot", "pipeline.selection.random")
    assert str(made) == f"pipeline.selection+pipeline.selection.random+pipeline.selection.uot={made.digest}"
    assert CodeDigest.parse(str(made)) == made
    assert code_digest(*made.modules) == made


@pytest.mark.parametrize("text", ["", "=", "pipeline.selection", "pipeline.selection=", "=0123456789abcdef"])
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(PipelineError, match="expected MODULE"):
        CodeDigest.parse(text)


# The real package. Each step, with the components that a config names.
RESNET = "pipeline.backbones.architectures.small_resnet"
STEPS = {
    "dataset": ("pipeline.datasets", "pipeline.datasets.parquet"),
    "images": ("pipeline.images",),
    "fetch": (
        "pipeline.backbones",
        "pipeline.backbones.architectures.vit",
        "pipeline.backbones.formats.mae",
    ),
    "pretrain": ("pipeline.pretraining", "pipeline.pretraining.supervised", RESNET),
    "pretrain by contrast": ("pipeline.pretraining", "pipeline.pretraining.moco_v2", RESNET),
    "features": ("pipeline.features", RESNET),
    "units": ("pipeline.units",),
    "class means": ("pipeline.class_means",),
    "select at random": ("pipeline.selection", "pipeline.selection.random"),
    "select by UOT": ("pipeline.selection", "pipeline.selection.uot"),
    "select by label": ("pipeline.selection", "pipeline.selection.label"),
    "recall": ("pipeline.recall",),
    "explain at random": ("pipeline.explanation", "pipeline.selection.random"),
    "explain by UOT": ("pipeline.explanation", "pipeline.selection.uot"),
    "initialise": ("pipeline.initialisation", "pipeline.initialisation.coin", RESNET),
    "finetune": ("pipeline.finetuning", "pipeline.objectives.cross_entropy", RESNET),
    "finetune with reuse": (
        "pipeline.finetuning",
        "pipeline.objectives.cross_entropy",
        "pipeline.reuse.labelled",
        RESNET,
    ),
    "finetune by contrast": ("pipeline.finetuning", "pipeline.objectives.core_tuning", RESNET),
    "finetune near the start": ("pipeline.finetuning", "pipeline.objectives.delta", RESNET),
    "finetune with pseudo-labels": (
        "pipeline.finetuning",
        "pipeline.objectives.co_tuning",
        "pipeline.reuse.pseudo_labelled",
        RESNET,
    ),
    "evaluate": ("pipeline.evaluation",),
    "nearest neighbours": ("pipeline.floors.neighbours",),
    "linear probe": ("pipeline.floors.linear_probe",),
    "interpolate": ("pipeline.floors.interpolation", RESNET),
    "claims": ("pipeline.claims",),
    "domain gap": ("pipeline.analysis.domain_gap", "pipeline.reuse.labelled", RESNET),
    "gap and accuracy": ("pipeline.analysis.gap_and_accuracy",),
    "feature map": ("pipeline.analysis.feature_map",),
    "feature map figures": ("pipeline.analysis.feature_map_figures",),
}
FLOORS = {"nearest neighbours", "linear probe", "interpolate"}
FINE_TUNING = {
    "finetune",
    "finetune with reuse",
    "finetune by contrast",
    "finetune near the start",
    "finetune with pseudo-labels",
}
TRAINING = FINE_TUNING | {"pretrain", "pretrain by contrast", "initialise"}
COVERED_BY = {
    "selection.uot": {"select by UOT", "explain by UOT"},
    "selection.transport": {"select by UOT", "explain by UOT"},
    "selection.random": {"select at random", "explain at random"},
    "selection.nearest": set(),
    "selection.label": {"select by label"},
    "selection.select": {
        "select at random",
        "select by UOT",
        "select by label",
        "explain at random",
        "explain by UOT",
    },
    "explanation.explain": {"explain at random", "explain by UOT"},
    "class_means.read": {"class means"},
    "recall.figures": {"recall"},
    "claims.intervals": {"claims"},
    "claims.values": {"claims"},
    "objectives.cross_entropy": {"finetune", "finetune with reuse"},
    "objectives.contrastive": {"initialise", "finetune by contrast"},
    "objectives.core_tuning": {"finetune by contrast"},
    "objectives.mixup": {"finetune by contrast"},
    "objectives.pairs": {"finetune by contrast"},
    "objectives.scl": set(),
    "objectives.bi_tuning": set(),
    "objectives.co_tuning": {"finetune with pseudo-labels"},
    "objectives.delta": {"finetune near the start"},
    "objectives.attention": {"finetune near the start"},
    "objectives.penalties": {"finetune near the start"},
    "objectives.l2_sp": set(),
    "objectives.relationship": {"finetune with pseudo-labels"},
    "reuse.labelled": {"finetune with reuse", "domain gap"},
    "analysis.domain_gap.estimate": {"domain gap"},
    "analysis.gap_and_accuracy.figures": {"gap and accuracy"},
    "analysis.feature_map.projections": {"feature map"},
    "analysis.feature_map_figures.figures": {"feature map figures"},
    "reuse.pseudo_labelled": {"finetune with pseudo-labels"},
    "engine.strong": {"finetune with pseudo-labels"},
    "initialisation.coin": {"initialise"},
    "pretraining.supervised": {"pretrain"},
    "pretraining.moco_v2": {"pretrain by contrast"},
    "pretraining.pretrain": {"pretrain", "pretrain by contrast"},
    "finetuning.finetune": FINE_TUNING,
    "engine.train": TRAINING,
    "engine.logistic": {
        "finetune near the start",
        "finetune with pseudo-labels",
        "domain gap",
        "linear probe",
    },
    "backbones.architectures.small_resnet": TRAINING | {"features", "domain gap", "interpolate"},
    "backbones.architectures.torchvision": set(),
    "backbones.architectures.vit": {"fetch"},
    "backbones.architectures.resnet": set(),
    "backbones.architectures.timm": set(),
    "backbones.formats.mae": {"fetch"},
    "backbones.formats.keys": {"fetch"},
    "backbones.formats.plain": set(),
    "backbones.formats.pycontrast": set(),
    "backbones.formats.simclr_v2": set(),
    "units.summarise": {"units"},
    "units.concepts": {"units"},
    "evaluation.catalogue": {"claims"},
    "evaluation.metrics": {"evaluate"},
    "s_dbw": FINE_TUNING | {"initialise", "evaluate"},
    "evaluation.classes": {"evaluate"},
    "evaluation.classification": {"evaluate", *FLOORS},
    "floors.outputs": FLOORS,
    "floors.data": {"nearest neighbours", "linear probe"},
    "floors.neighbours.classify": {"nearest neighbours"},
    "floors.linear_probe.fit": {"linear probe"},
    "floors.interpolation.interpolate": {"interpolate"},
    "datasets.parquet": {"dataset"},
    "datasets.csv": set(),
    "predict.classify": set(),
    "export.card": set(),
    "text": {"recall"},
    "figures": {"recall", "gap and accuracy", "feature map figures"},
    "tables.io": set(STEPS),
    "command": set(),
    "errors": set(),
    "progress": set(),
    "config.model": set(),
    "config.selections": set(),
}


@pytest.mark.parametrize(("module", "steps"), COVERED_BY.items(), ids=COVERED_BY)
def test_a_module_counts_where_it_can_be_reached(module: str, steps: set[str]) -> None:
    assert (SOURCES.joinpath(*module.split("."))).with_suffix(".py").exists()
    assert {step for step in STEPS if f"pipeline.{module}" in covered_modules(STEPS[step])} == steps


def test_an_edit_changes_only_the_digests_that_cover_it(sources: Path) -> None:
    shutil.copytree(SOURCES, sources, ignore=shutil.ignore_patterns("__pycache__"))
    before = {step: code_digest(*modules) for step, modules in STEPS.items()}
    edit(sources / "selection" / "uot.py", "units.images.mean()", "units.images.max()")
    forget()
    changed = {step for step, modules in STEPS.items() if code_digest(*modules) != before[step]}
    assert changed == {"select by UOT", "explain by UOT"}


@pytest.mark.parametrize("step", STEPS)
def test_no_step_reaches_what_has_no_effect_or_another_step(step: str) -> None:
    covered = covered_modules(STEPS[step])
    commands = {module for module in covered if module.endswith(".__main__")}
    assert commands == {f"{STEPS[step][0]}.__main__"}
    assert not {module for module in covered if is_without_effect(module)}


def test_selection_has_no_training_in_it() -> None:
    covered = covered_modules(STEPS["select by UOT"])
    assert not {module for module in covered if module.startswith(("pipeline.engine", "pipeline.backbones"))}


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """Units of a source and of a target, and where the selection goes: arguments of a command."""
    generator = np.random.default_rng(0)
    for name, count in (("source", 6), ("target", 2)):
        columns = {
            "unit_id": np.arange(count, dtype=np.int32),
            "name": [f"{name} {number}" for number in range(count)],
            "images": np.full(count, 5),
            "mean": feature_column(generator.random((count, 4), dtype=np.float32)),
        }
        write_table("units", tmp_path / f"{name}.parquet", columns, Provenance("test", {}, "", {}))
    return [str(tmp_path / f"{name}.parquet") for name in ("source", "target", "selection")]


def select(units: list[str], code: str) -> subprocess.CompletedProcess[str]:
    """Run the command of a step with the given digest."""
    settings = json.dumps({"method": "random", "seed": 0, "count": 2, "order": "best", "skip": 0})
    command = [sys.executable, "-m", "pipeline.selection", *units, "--settings", settings, "--code", code]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_step_runs_with_its_digest_and_keeps_it(units: list[str]) -> None:
    given = code_digest(*STEPS["select at random"])
    done = select(units, str(given))
    assert (done.returncode, done.stderr) == (0, "")
    assert compute.sum(read_table("selection", Path(units[-1]))["selected"]).as_py() == 2
    metadata = json.loads(parquet.read_schema(units[-1]).metadata[b"graftune"])
    assert metadata["code"] == str(given)


def test_a_step_whose_code_has_changed_does_not_start(units: list[str]) -> None:
    found = code_digest(*STEPS["select at random"])
    refused = select(units, str(found._replace(digest="0123456789abcdef")))
    assert refused.returncode == 1
    assert refused.stderr == (
        "error: pipeline.selection: its code has changed since this job was made (digest 0123456789abcdef "
        f"then, {found.digest} now). Run snakemake again, so that the change is seen.\n"
    )
    assert not Path(units[-1]).exists()


def test_a_step_that_loads_code_outside_its_digest_fails(units: list[str]) -> None:
    narrow = code_digest("pipeline.selection", "pipeline.selection.uot")
    refused = select(units, str(narrow))
    assert refused.returncode == 1
    assert refused.stderr == (
        "error: pipeline.selection: loaded code outside its digest: pipeline.selection.random\n"
    )
