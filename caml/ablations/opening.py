"""Opening a trained model: of a cell, of the ledger, or of a folder in the format of Hugging Face."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load as parse_parameters

from caml.ablations.catalogue import load_ablation
from caml.ablations.grid import cells
from caml.ablations.imported import MANIFESTS
from caml.ablations.places import places
from caml.ablations.runner import chosen
from caml.ablations.runs import Run, StageRun
from caml.config.errors import Failure, UserError
from caml.config.files import shown
from caml.data.chat import TEMPLATES
from caml.data.tokenizer_recipes import TOKENIZER, LoadedTokenizer, open_tokenizer
from caml.evals.checkpoint import Checkpoint
from caml.models import huggingface
from caml.tracking.ledger import Ledger, State

KINDS = (
    "the gin file of a cell or an ablation, the ledger's folder of a StageRun, or a folder with config.json"
)


@dataclass(frozen=True)
class Trained:
    """A StageRun that is complete in a ledger, under `name`, of a run; `folder` is that of its ablation's results.

    `tracking` is the address of the store that mirrors it for its `ablation`; both empty where a folder was named.
    """

    ledger: Ledger
    tokenizers: Path
    folder: Path
    name: str
    run: Run
    stagerun: StageRun
    ablation: str = ""
    tracking: str = ""

    @property
    def lineage(self) -> tuple[StageRun, ...]:
        """The StageRuns from the first to this one."""
        found = [self.stagerun]
        while found[0].parent:
            found.insert(0, found[0].parent)
        return tuple(found)

    def checkpoint(self) -> Checkpoint:
        """Its final parameters, their digest checked. Raises Failure where a file was altered."""
        return Checkpoint(
            name=self.name,
            params=parse_parameters(self.ledger.params(self.name)),
            model=self.stagerun.model,
            vocabulary=self.stagerun.tokenizer.vocabulary,
            tokenizer=open_tokenizer(self.tokenizers, self.stagerun.tokenizer),
            context=max(one.stage.length for one in self.lineage),
            template=self.stagerun.stage.mixture.template,
            about=self.ledger.manifest(self.name),
        )


def open_checkpoint(path: Path, cell: str | None = None, stage: str | None = None) -> Checkpoint:
    """The model at `path`: see `KINDS`.

    Of a gin file, `cell` says which where it has several, and `stage` after which stage (the last). Raises UserError
    where there is none or it is not trained, Failure where a file of it was altered.
    """
    if (path / huggingface.CONFIG).exists():
        _refuse_choice(path, cell, stage)
        return open_folder(path)
    return find(path, cell, stage).checkpoint()


def find(path: Path, cell: str | None = None, stage: str | None = None) -> Trained:
    """The StageRun that a gin file or a folder of the ledger names; raises as `open_checkpoint`."""
    if path.is_file():
        return _of_cell(path, cell, stage)
    if not path.is_dir():
        raise UserError(f"there is no {path}: name {KINDS}")
    _refuse_choice(path, cell, stage)
    if (path / huggingface.CONFIG).exists():
        raise UserError(
            f"{path} is a folder in the format of Hugging Face, and no StageRun: name the gin file of a cell or an "
            "ablation, or the ledger's folder of a StageRun"
        )
    if not (path / "manifest.json").exists():
        raise UserError(f"{path} holds no model: name {KINDS}")
    return _of_ledger(path.absolute())


def _refuse_choice(path: Path, cell: str | None, stage: str | None) -> None:
    for option, value in (("cell", cell), ("stage", stage)):
        if value is not None:
            raise UserError(f"--{option} {value}: {path} is one model; leave it out")


def _of_cell(path: Path, cell: str | None, stage: str | None) -> Trained:
    loaded = load_ablation(path)
    grid = cells(loaded)
    if cell is None and len(grid) > 1:
        raise UserError(f"{path} has {len(grid)} cells: name one with --cell, such as --cell {grid[0].id}")
    one = grid[0] if cell is None else chosen(grid, cell)
    by_stage = {stagerun.stage.name: stagerun for stagerun in one.stageruns}
    if stage is not None and stage not in by_stage:
        raise UserError(f"{one.id} has no stage {stage!r}; its stages are {', '.join(by_stage)}")
    where = places(loaded.tree)
    stagerun = by_stage[stage] if stage else one.stageruns[-1]
    _require_complete(where.ledger, stagerun.name, path)
    return Trained(
        where.ledger,
        where.tokenizers,
        where.folder,
        stagerun.name,
        one.run,
        stagerun,
        loaded.tree.name,
        loaded.tree.tracking or where.tracking,
    )


def _of_ledger(folder: Path) -> Trained:
    """A StageRun by its folder, which need not be called what this version of caml would call it."""
    ledger, output = Ledger(folder.parent), folder.parent.parent
    _require_complete(ledger, folder.name, folder)
    loaded = load_ablation(folder / "config.gin")
    (cell,) = cells(loaded)
    own = output / loaded.tree.name
    return Trained(ledger, output / "tokenizers", own, folder.name, cell.run, cell.stageruns[-1])


def _require_complete(ledger: Ledger, name: str, asked: Path) -> None:
    state, folder = ledger.state(name), shown(ledger.folder(name))
    if state is State.MISSING:
        raise UserError(f"{name} is not trained yet: `caml run {shown(asked)}` trains it")
    if state is State.STARTED:
        raise Failure(f"{folder} is not trained to its end: `caml run` goes on with it")
    if damage := ledger.damage(name):
        raise Failure(
            f"{shown(damage.file)} {damage.wrong}: `caml run` puts the StageRun aside and trains it again"
        )


def _size(folder: Path) -> str:
    """What the size of a model in a folder is called: as where caml trained it, or else as the folder."""
    try:
        size = json.loads((folder / MANIFESTS).read_text(encoding="utf-8"))[-1]["size"]
    except (OSError, ValueError, LookupError, TypeError):
        size = folder.absolute().name
    return huggingface.named(str(size))


def open_folder(folder: Path) -> Checkpoint:
    """A model in the format of Hugging Face, ours or anybody's dense Qwen3."""
    model, vocabulary, context = huggingface.read_config(folder, _size(folder))
    if not (folder / TOKENIZER).exists():
        raise UserError(f"{folder} has no {TOKENIZER}: a model goes with its tokenizer")
    tokenizer, noted = LoadedTokenizer(vocabulary, str(folder)).make()
    if noted["added"]:
        raise UserError(
            f"{folder}: its tokenizer lacks {', '.join(noted['added'])}, which chat templates need"
        )
    return Checkpoint(
        name=folder.absolute().name,
        params=huggingface.read_weights(folder, model, vocabulary),
        model=model,
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        context=context,
        template=TEMPLATES[0],
        about={},
    )
