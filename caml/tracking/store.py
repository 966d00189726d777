"""The MLflow store: opened quietly, once at a time, and asked in few calls. The only door to mlflow."""

import contextlib
import fcntl
import logging
import math
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

# MLflow's limits: a batch holds so many entries, a value so many characters.
METRICS, PARAMS, TAGS = 1000, 100, 100
PARAM_CHARACTERS, TAG_CHARACTERS, KEY_CHARACTERS = 6000, 8000, 250

Point = tuple[str, float, int, int]  # key, value, milliseconds since 1970, step

# A dead server must be noticed in seconds; MLflow itself would try for minutes. What the user set stands.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}


class Store:
    """One experiment of a tracking store: a database (`sqlite:///PATH`) or a server (`http://HOST:PORT`).

    Every method may raise whatever mlflow, its database or its transport raise: there is no telling.
    """

    def __init__(self, uri: str, experiment: str):
        """Open the store, creating database, tables and experiment where they are missing (seconds)."""
        for key, value in _ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        database = database_of(uri)
        if database:
            database.parent.mkdir(parents=True, exist_ok=True)
        # Two processes that open a new SQLite file at once race its migrations.
        with locked(database.with_name(f"{database.name}.lock")) if database else contextlib.nullcontext():
            import mlflow
            import mlflow.entities

            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is told by us
            if database and not database.exists():
                _create(mlflow.MlflowClient, database)
            self._entities = mlflow.entities
            self._client = mlflow.MlflowClient(tracking_uri=uri)
            place = (database.parent / "mlartifacts").resolve().as_uri() if database else None
            self._experiment = self._open_experiment(experiment, place)

    def _open_experiment(self, name: str, artifacts: str | None) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return self._client.create_experiment(name, artifact_location=artifacts)
            except Exception:
                # Another process may have created it since; if it did not, this is the error to show.
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return found.experiment_id

    def find(self, tag: str, value: str, within: bool = False) -> list[tuple[str, dict[str, str]]]:
        """Run id and tags of the runs whose `tag` is `value` or, with `within`, contains it."""
        quoted = value.replace("'", "")
        condition = f"tags.`{tag}` LIKE '%{quoted}%'" if within else f"tags.`{tag}` = '{quoted}'"
        found, token = [], None
        while True:
            page = self._client.search_runs([self._experiment], condition, max_results=1000, page_token=token)
            found += [(run.info.run_id, dict(run.data.tags)) for run in page]
            token = page.token
            if not token:
                return found

    def create(self, name: str, started: int | None, tags: Mapping[str, str]) -> str:
        """Create a run that began at `started` (milliseconds since 1970, None: now); its id."""
        cut = {key: shorten(value, TAG_CHARACTERS) for key, value in tags.items()}
        return self._client.create_run(self._experiment, started, cut, name).info.run_id

    def steps(self, run: str, key: str) -> set[int]:
        """The steps at which `run` has a value of the metric `key`."""
        return {metric.step for metric in self._client.get_metric_history(run, key)}

    def write(
        self,
        run: str,
        metrics: Sequence[Point],
        params: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> None:
        """Log `metrics`, `params` and last `tags`, in as few calls as can be.

        A metric that is there already with the same time is not there twice. Infinity becomes NaN, which
        the store can hold.
        """
        entities = self._entities
        points = [
            entities.Metric(clean(key), value if math.isfinite(value) else math.nan, time, step)
            for key, value, time, step in metrics
        ]
        plain = [
            entities.Param(clean(key), shorten(value, PARAM_CHARACTERS)) for key, value in params.items()
        ]
        marks = [entities.RunTag(key, shorten(value, TAG_CHARACTERS)) for key, value in tags.items()]
        while True:
            # The limits are for each kind and, together, 1,000.
            now, plain = plain[:PARAMS], plain[PARAMS:]
            room = METRICS - len(now) - len(marks)
            part, points = points[:room], points[room:]
            last = not plain and not points
            self._client.log_batch(run, part, now, marks if last else [])
            if last:
                return

    def inputs(self, run: str, datasets: Sequence[Mapping[str, Any]]) -> None:
        """Log the dataset inputs of `run`: `name, digest, source` and `context` (the stage) of each."""
        entities = self._entities
        self._client.log_inputs(
            run,
            [
                entities.DatasetInput(
                    entities.Dataset(
                        name=str(dataset["name"])[:500],
                        digest=str(dataset["digest"])[:36],
                        source_type="caml",
                        source=str(dataset["source"]),
                    ),
                    [entities.InputTag("mlflow.data.context", str(dataset["context"]))],
                )
                for dataset in datasets
            ],
        )

    def artifact(self, run: str, path: Path) -> None:
        """Upload the file at `path`."""
        self._client.log_artifact(run, str(path))

    def finish(self, run: str, failed: bool, finished: int | None) -> None:
        """Mark `run` as ended at `finished` (milliseconds since 1970, None: now)."""
        self._client.set_terminated(run, "FAILED" if failed else "FINISHED", finished)


def _create(client: Callable[..., Any], database: Path) -> None:
    """Make the SQLite file `database` with mlflow's tables, in one step.

    A process that is killed while it makes them would leave a file that mlflow can neither use nor mend.
    """
    new = database.with_name(f"{database.name}.new")
    for left in (new, new.with_name(f"{new.name}-journal")):
        left.unlink(missing_ok=True)
    client(tracking_uri=f"sqlite:///{new}").search_experiments(max_results=1)
    new.rename(database)


def database_of(uri: str) -> Path | None:
    """The file of a SQLite uri, None for a server."""
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix)) if uri.startswith(prefix) else None


def holds_runs(database: Path) -> bool:
    """Whether the SQLite file `database` is one, with mlflow's tables; so is one that is busy."""
    if not database.exists():
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as opened:
            return bool(opened.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone())
    except sqlite3.OperationalError:
        return True
    except sqlite3.DatabaseError:
        return False


def where(uri: str) -> str:
    """`uri` in words that show no password."""
    parts = urlparse(uri)
    return uri.replace(f"{parts.username}:{parts.password}@", "") if parts.password else uri


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`: one process and thread at a time; the system frees it when a holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def clean(key: str) -> str:
    """`key` in the characters and length that MLflow takes for a name."""
    return re.sub(r"[^A-Za-z0-9_\-. :/]", "_", key)[:KEY_CHARACTERS]


def shorten(value: str, characters: int) -> str:
    """`value`, cut where it is too long for the store; the ledger has all of it."""
    return value if len(value) <= characters else value[: characters - 4] + " ..."
