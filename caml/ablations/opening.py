"""Opening a trained model: of a cell, of the ledger, or of a folder in the format of Hugging Face."""

from pathlib import Path

from safetensors.numpy import load as parse_parameters

from caml.ablations.catalogue import load_ablation
from caml.ablations.grid import Cell, cells
from caml.ablations.places import places
from caml.ablations.runner import chosen
from caml.ablations.runs import StageRun
from caml.config.errors import Failure, UserError
from caml.config.files import shown
from caml.data.chat import TEMPLATES
from caml.data.tokenizer_recipes import LoadedTokenizer, open_tokenizer
from caml.evals.checkpoint import Checkpoint
from caml.models import huggingface
from caml.tracking.ledger import Ledger, State

KINDS = (
    "the gin file of a cell or an ablation, the ledger's folder of a StageRun, or a folder with config.json"
)


def open_checkpoint(path: Path, cell: str | None = None, stage: str | None = None) -> Checkpoint:
    """The model at `path`: see `KINDS`.

    Of a gin file, `cell` says which where it has several, and `stage` after which stage (the last). Raises UserError
    where there is none or it is not trained, Failure where a file of it was altered.
    """
    if path.is_file():
        return _of_cell(path, cell, stage)
    if not path.is_dir():
        raise UserError(f"there is no {path}: name {KINDS}")
    for option, value in (("cell", cell), ("stage", stage)):
        if value is not None:
            raise UserError(f"--{option} {value}: {path} is one model; leave it out")
    if (path / huggingface.CONFIG).exists():
        return open_folder(path)
    if (path / "manifest.json").exists():
        return _of_ledger(path)
    raise UserError(f"{path} holds no model: name {KINDS}")


def _of_cell(path: Path, cell: str | None, stage: str | None) -> Checkpoint:
    loaded = load_ablation(path)
    grid = cells(loaded)
    one = _one(path, grid, cell)
    by_stage = {stagerun.stage.name: stagerun for stagerun in one.stageruns}
    if stage is not None and stage not in by_stage:
        raise UserError(f"{one.id} has no stage {stage!r}; its stages are {', '.join(by_stage)}")
    where = places(loaded.tree)
    return _trained(where.ledger, where.tokenizers, by_stage[stage] if stage else one.stageruns[-1], path)


def _one(path: Path, grid: list[Cell], cell: str | None) -> Cell:
    if cell is not None:
        return chosen(grid, cell)
    if len(grid) > 1:
        raise UserError(f"{path} has {len(grid)} cells: name one with --cell, such as --cell {grid[0].id}")
    return grid[0]


def _of_ledger(folder: Path) -> Checkpoint:
    """A StageRun by its folder: its config.gin says what it is."""
    folder = folder.absolute()
    ledger = Ledger(folder.parent)
    if ledger.state(folder.name) is not State.COMPLETE:
        raise Failure(_unfinished(folder, ledger.state(folder.name)))
    (cell,) = cells(load_ablation(folder / "config.gin"))
    return _trained(ledger, folder.parent.parent / "tokenizers", cell.stageruns[-1], folder, folder.name)


def _trained(
    ledger: Ledger, tokenizers: Path, stagerun: StageRun, asked: Path, name: str | None = None
) -> Checkpoint:
    """The final parameters of a StageRun, in the ledger under `name` (its own), their digest checked."""
    name = name or stagerun.name
    state = ledger.state(name)
    if state is State.MISSING:
        raise UserError(f"{name} is not trained yet: `caml run {shown(asked)}` trains it")
    if state is not State.COMPLETE:
        raise Failure(_unfinished(ledger.folder(name), state))
    lineage = [stagerun]
    while lineage[-1].parent:
        lineage.append(lineage[-1].parent)
    return Checkpoint(
        name=name,
        params=parse_parameters(ledger.params(name)),
        model=stagerun.model,
        vocabulary=stagerun.tokenizer.vocabulary,
        tokenizer=open_tokenizer(tokenizers, stagerun.tokenizer),
        context=max(one.stage.length for one in lineage),
        template=stagerun.stage.mixture.template,
        about=ledger.manifest(name),
    )


def _unfinished(folder: Path, state: State) -> str:
    if state is State.DAMAGED:
        return f"{shown(folder)} was damaged: `caml run` puts it aside and trains it again"
    return f"{shown(folder)} is not trained to its end: `caml run` goes on with it"


def open_folder(folder: Path) -> Checkpoint:
    """A model in the format of Hugging Face, ours or anybody's dense Qwen3."""
    model, vocabulary, context = huggingface.read_config(folder, huggingface.named(folder.absolute().name))
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
