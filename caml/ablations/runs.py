"""What an ablation is made of: stages, the run through them, and the StageRun that is trained once."""

import dataclasses
import functools
import math
import re
from typing import Any

from caml.ablations.imported import Imported
from caml.analysis.contrasts import Contrast
from caml.config.errors import require
from caml.config.fingerprint import NUMERICS_VERSION, fingerprint, identity, runtime
from caml.data.mixture import Mixture
from caml.data.tokenizer_recipes import TokenizerRecipe
from caml.evals.benchmarks.benchmark import Benchmark
from caml.models.compute import FLOAT32, PRECISIONS
from caml.models.sizes import Model
from caml.training.execution import AS_SUITS, Execution
from caml.training.optimizer import Optimizer, Schedule
from caml.worlds.items import Probes

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}")
NAME_RULE = "up to 60 letters, digits, '-', '_' and '.', beginning with a letter or a digit"
# An ablation's may be longer: cells that run alone, and settings, are told by it.
FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,=+-]{0,119}")
FOLDER_RULE = "up to 120 letters, digits and any of -_.,=+, beginning with a letter or a digit"
# What lies in the output folder beside the ablations' folders.
RESERVED = (
    "ledger", "stores", "tokenizers", "populations", "benchmarks", "leaderboard", "mlartifacts", "mlflow.db",
    "mlflow.db.lock",
)  # fmt: skip
MOST_TOKENS = 10**15
TRACKING = re.compile(r"(https?|sqlite|postgresql|mysql|mssql|databricks)(\+\w+)?:")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training phase over `tokens` processed tokens: slots of `length`, `batch` of them a step.

    Tokens beyond a whole number of steps are dropped. With 0 tokens a first stage is an untrained model (or the
    initial one as it is), and a later one is not taken. A preference stage (a mixture with the loss 'preference')
    learns by DPO to prefer the chosen answers more than its parent does; `beta` is its strength: the smaller, the
    further from the parent.

    `precision` is that of its products: 'float32', or 'bfloat16' with parameters, optimizer and loss in float32.

    With `target_tokens` it is a small proxy of a stage of so many tokens (0: of none). It sees of each source only the
    share tokens / target_tokens, and so each source as many times over as that stage would.
    """

    name: str
    tokens: int
    mixture: Mixture
    optimizer: Optimizer
    schedule: Schedule
    batch: int
    length: int
    beta: float = 0.1
    target_tokens: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        require(NAME.fullmatch(self.name) is not None, "name", f"a stage is named with {NAME_RULE}")
        require(self.tokens < MOST_TOKENS, "tokens", f"fewer than {MOST_TOKENS:.0e} tokens")
        require(self.batch >= 1, "batch", "at least one sequence a step")
        require(self.length >= 2, "length", "at least two tokens a sequence")
        require(
            self.target_tokens == 0 or max(self.tokens, 1) <= self.target_tokens < MOST_TOKENS,
            "target_tokens",
            f"the budget of the stage that this one of {self.tokens} tokens stands for, or 0; not {self.target_tokens}",
            "tokens",
        )
        require(
            self.precision in PRECISIONS,
            "precision",
            f"'{self.precision}' is not one of {', '.join(PRECISIONS)}",
        )
        require(
            0 < self.beta < math.inf,
            "beta",
            f"the strength of a preference loss is above 0, not {self.beta:g}",
        )
        require(
            self.tokens == 0 or self.tokens >= self.batch * self.length,
            "tokens",
            f"{self.tokens} tokens are less than one step takes: 0, or at least {self.batch * self.length}",
            "batch",
            "length",
        )

    @property
    def share(self) -> float:
        """The share of each source that it sees."""
        return self.tokens / self.target_tokens if self.target_tokens else 1.0

    @property
    def preference(self) -> bool:
        """Whether it learns from preference pairs."""
        return self.mixture.loss == "preference"

    @property
    def steps(self) -> int:
        """Steps of the stage."""
        return self.tokens // (self.batch * self.length)

    @property
    def slots(self) -> int:
        """Sequences of the stage."""
        return self.steps * self.batch


@dataclasses.dataclass(frozen=True)
class Run:
    """A model taken through its stages, in one seed block.

    It begins with fresh parameters, or with those of an `initial` model; `model` and `tokenizer` are then that one's.
    """

    model: Model
    tokenizer: TokenizerRecipe
    stages: tuple[Stage, ...]
    probes: Probes
    seed: int
    initial: Imported | None = None

    def __post_init__(self) -> None:
        require(len(self.stages) > 0, "stages", "at least one stage")
        names = [stage.name for stage in self.stages]
        require(len(set(names)) == len(names), "stages", f"stages need names of their own, not {names}")
        require(
            not self.stages[0].preference,
            "stages",
            f"{names[0]!r} is a preference stage, which compares with the model before it: let it follow another stage",
        )
        require(0 <= self.seed < 2**63, "seed", "a seed is 0 or above, and below 2^63")


@dataclasses.dataclass(frozen=True)
class Ablation:
    """One gin file: a run, the axes over which it varies, the contrasts to estimate.

    `axes` gives macros their values: every combination of them is a cell. A list of such dictionaries is the union of
    their products, where a macro that one of them doesn't name keeps the file's value. `control` names the arm that
    every treatment must have beside it, such as {'ARM': 'neutral'}. `output` is the folder of all results,
    `development` the seed blocks on which world, models or analysis were tuned (the page says so of what it shows of
    them), `population` the most members trained together (0: what suits the machine), `execution` how a model is laid
    over devices, where what suits the machine is not wanted, `checkpoint_seconds` the time between checkpoints of a
    population in training, `tracking` the address of an MLflow store (empty: a SQLite file in the output folder). Every
    StageRun sits the `benchmarks` once it is trained.
    """

    run: Run
    name: str = runtime()
    axes: dict[str, list[Any]] | list[dict[str, list[Any]]] = dataclasses.field(default_factory=dict)
    contrasts: tuple[Contrast, ...] = ()
    control: dict[str, Any] = dataclasses.field(default_factory=dict)
    development: tuple[int, ...] = runtime(())
    output: str = runtime("runs")
    population: int = runtime(0)
    execution: Execution = runtime(AS_SUITS)
    checkpoint_seconds: float = runtime(60.0)
    tracking: str = runtime("")
    benchmarks: tuple[Benchmark, ...] = runtime(())

    def __post_init__(self) -> None:
        require(
            FOLDER.fullmatch(self.name) is not None,
            "name",
            f"names a folder inside the output folder: {FOLDER_RULE}",
        )
        require(
            self.name not in RESERVED, "name", f"{self.name!r} is a folder of caml's own: take another name"
        )
        names = [contrast.name for contrast in self.contrasts]
        require(len(set(names)) == len(names), "contrasts", "two contrasts have the same name")
        require(bool(self.output) and "\0" not in self.output, "output", "the folder that holds the results")
        require(
            self.population >= 0, "population", "members trained together, or 0 for what the machine takes"
        )
        require(
            not self.tracking or TRACKING.match(self.tracking) is not None,
            "tracking",
            "the address of an MLflow server or store, such as 'http://host:5000' or 'sqlite:////folder/mlflow.db'",
        )
        sat = [benchmark.name for benchmark in self.benchmarks]
        require(len(set(sat)) == len(sat), "benchmarks", f"the same benchmark twice: {', '.join(sat)}")
        require(self.checkpoint_seconds >= 0, "checkpoint_seconds", "seconds between checkpoints, 0 or above")


@dataclasses.dataclass(frozen=True)
class StageRun:
    """A stage with its parent, data and seed: trained once, and reused by every cell that shares it."""

    stage: Stage
    parent: "StageRun | None"
    model: Model
    tokenizer: TokenizerRecipe
    seed: int
    initial: Imported | None = None

    @property
    def steps(self) -> int:
        """Steps of the stage."""
        return self.stage.steps

    @property
    def slots(self) -> int:
        """Sequences of the stage."""
        return self.stage.slots

    @property
    def root(self) -> "StageRun":
        """The first stage of the lineage."""
        return self.parent.root if self.parent else self

    @property
    def arm(self) -> str:
        """What the intervention slots of the first stage hold, or held in an initial model's; 'base' where none do."""
        mixture = self.root.stage.mixture
        if mixture.intervention and mixture.ratio and self.root.steps:
            return mixture.intervention.name
        return self.root.initial.treatment.arm if self.root.initial else "base"

    @property
    def ratio(self) -> float:
        """The intervention's share of the first stage's slots, or of an initial model's; 0 where it has none."""
        mixture, initial = self.root.stage.mixture, self.root.initial
        if mixture.intervention and mixture.ratio and self.root.steps:
            return mixture.ratio
        return initial.treatment.ratio if initial else 0.0

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What the parameters at the end of the stage depend on, as JSON data.

        What changes nothing is left out, so that cells share: the intervention at ratio 0, and everything
        of a stage without steps but its name.
        """
        about: dict[str, Any] = {"numerics": NUMERICS_VERSION, "seed": self.seed, "stage": self.stage.name}
        if self.parent:
            about["parent"] = self.parent.fingerprint
        else:
            about["model"] = identity(self.model)
            about["tokenizer"] = self.tokenizer.recipe()
            if self.initial:
                about["initial"] = self.initial.recipe()
        if self.steps:
            stage = self.stage
            about |= {"steps": stage.steps, "batch": stage.batch, "length": stage.length}
            about |= {"optimizer": identity(stage.optimizer), "schedule": identity(stage.schedule)}
            about["mixture"] = _mixture_identity(stage.mixture, self.seed)
            if stage.preference:
                about["beta"] = stage.beta
            if stage.target_tokens:
                about["target_tokens"] = stage.target_tokens
            if stage.precision != FLOAT32.precision:
                about["precision"] = stage.precision
        return about

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the identity, 64 hexadecimal digits."""
        return fingerprint(self.identity)

    @property
    def history(self) -> dict[str, Any]:
        """The identity of each stage from the first to this one by stage name, for `explain.diff`."""
        own = {key: value for key, value in self.identity.items() if key != "parent"}
        return {**(self.parent.history if self.parent else {}), self.stage.name: own}

    @property
    def name(self) -> str:
        """Stage, arm, ratio, size, seed and the first digits of the fingerprint: the name of the ledger."""
        parts = (self.stage.name, self.arm, f"r{self.ratio:g}", f"s{self.model.name}", f"seed{self.seed}")
        return re.sub(r"[^A-Za-z0-9_.-]", "_", "-".join(parts)) + f"-{self.fingerprint[:12]}"


def stageruns(run: Run) -> tuple[StageRun, ...]:
    """The StageRuns of a run, first to last; a later stage without tokens is not taken."""
    taken: list[StageRun] = []
    for stage in run.stages:
        if stage.tokens or not taken:
            parent = taken[-1] if taken else None
            initial = None if parent else run.initial
            taken.append(StageRun(stage, parent, run.model, run.tokenizer, run.seed, initial))
    return tuple(taken)


def _mixture_identity(mixture: Mixture, seed: int) -> dict[str, Any]:
    """The mixture by the recipes of the sources that it uses."""
    about: dict[str, Any] = {"loss": mixture.loss, "template": mixture.template}
    for name, source in mixture.sources().items():
        about[name] = {"recipe": source.recipe(seed), "tokens": source.tokens}
    if mixture.ratio > 0:
        about |= {"ratio": mixture.ratio, "placement": mixture.placement}
    if mixture.second_ratio > 0:
        about["second_ratio"] = mixture.second_ratio
    return about
