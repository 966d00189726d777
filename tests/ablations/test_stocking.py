"""`caml data`: token stores of a file's corpora, prepared, shown and verified through the public commands."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from caml.cli import app
from caml.data.store import open_store

WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "ne", "pu") for b in ("ra", "sto", "vi", "xen", "zu")]
GIN = """
Corpora.sources = (@care/Files(), @control/Matched())
Corpora.tokenizer = @TrainedTokenizer()
TrainedTokenizer.kind = 'bpe'
TrainedTokenizer.vocabulary = 300
TrainedTokenizer.source = @pool/Files()
care/Files.name = 'care'
care/Files.path = 'care.jsonl'
care/Files.licence = 'CC0-1.0'
care/Files.hygiene = @Hygiene()
Hygiene.against = (@items/Files(),)
Hygiene.overlap = 6
items/Files.name = 'items'
items/Files.path = 'items.txt'
pool/Files.name = 'pool'
pool/Files.path = 'pool.txt'
control/Matched.name = 'matched'
control/Matched.treatment = @care/Files()
control/Matched.pool = @pool/Files()
"""


def caml(*arguments: str) -> Result:
    """The command in this process."""
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two corpora, a text to be kept apart from, and the gin file that names them."""
    rng = random.Random(0)

    def texts(count: int, least: int, most: int) -> list[str]:
        return [" ".join(rng.choices(WORDS, k=rng.randint(least, most))) for _ in range(count)]

    care = texts(30, 12, 40)
    guarded = " ".join(care[7].split()[-8:])
    (tmp_path / "care.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in care))
    (tmp_path / "pool.txt").write_text("\n".join(texts(200, 5, 60)))
    (tmp_path / "items.txt").write_text(guarded)
    (tmp_path / "corpora.gin").write_text(GIN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_corpora_are_prepared_shown_and_verified(folder: Path) -> None:
    assert "not prepared yet" in caml("data", "show", "corpora.gin").stdout
    first = caml("data", "prepare", "corpora.gin")
    assert first.exit_code == 0, first.stderr
    assert (
        first.stdout.count(": written, ") == 3 and "1 that overlap with probes or benchmarks" in first.stdout
    )
    assert "documents: 29 for 29" in first.stdout and "(+0.00%)" in first.stdout
    assert caml("data", "prepare", "corpora.gin").stdout.count(": there already, ") == 3
    shown = caml("data", "show", "corpora.gin", "--samples", "2").stdout
    assert (
        shown.count("  [0] <|endoftext|>") == 3 and "licence: CC0-1.0" in shown and "bytes of text" in shown
    )
    verified = caml("data", "verify", "corpora.gin")
    assert verified.exit_code == 0 and verified.stdout.count("as it was written") == 3
    left = next(folder.glob("runs/stores/care-*/left_out.jsonl"))
    (row,) = map(json.loads, left.read_text().splitlines())
    assert (
        row["place"] == "care.jsonl:8" and row["why"].startswith("items: ") and len(row["text"].split()) >= 8
    )


def test_a_matched_control_has_the_lengths_of_its_treatment(folder: Path) -> None:
    assert caml("data", "prepare", "corpora.gin").exit_code == 0
    stores = {
        name: open_store(next(folder.glob(f"runs/stores/{name}-*"))) for name in ("care", "matched", "pool")
    }
    assert np.diff(stores["matched"].bounds).tolist() == np.diff(stores["care"].bounds).tolist()
    pool = stores["pool"]  # of the shortest documents 20 tokens are the whole
    beginnings = {tuple(pool.tokens(np.arange(a, a + 20)).tolist()) for a in pool.bounds[:-1]}
    control = stores["matched"]
    taken = [tuple(control.tokens(np.arange(a, a + 20)).tolist()) for a in control.bounds[:-1]]
    assert set(taken) <= beginnings and len(set(taken)) == len(taken)


def test_a_wrong_byte_is_found_and_named(folder: Path) -> None:
    assert caml("data", "prepare", "corpora.gin").exit_code == 0
    path = next(folder.glob("runs/stores/care-*/tokens.bin"))
    content = bytearray(path.read_bytes())
    content[9] ^= 1
    path.write_bytes(content)
    result = caml("data", "verify", "corpora.gin")
    assert result.exit_code == 1 and result.stdout.count(": as it was written") == 2
    assert f"{path}: chunk 0" in result.stdout and "1 token store of 3" in result.stderr


@pytest.mark.parametrize(
    "old, new, says",
    [
        ("'care.jsonl'", "'gone.jsonl'", ["corpora.gin:8", "gone.jsonl does not exist"]),
        ("care/Files.licence", "other/Files.licence", ["corpora.gin:9", "other"]),
        ("Corpora.", "Corpus.", ["binds neither Ablation nor Corpora"]),
        ("vocabulary = 300", "vocabulary = 100", ["vocabulary of at least"]),
    ],
)
def test_a_mistake_ends_in_one_line_and_writes_nothing(
    folder: Path, old: str, new: str, says: list[str]
) -> None:
    (folder / "corpora.gin").write_text(GIN.replace(old, new))
    result = caml("data", "prepare", "corpora.gin")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert all(part in result.stderr for part in says), result.stderr
    assert not (folder / "runs").exists()


STUDY = """
include '{tiny}'
Run.probes = @FileProbes()
FileProbes.sets = (@Items(),)
FileProbes.held_out_text = @BaseText()
Items.name = 'mine'
Items.path = 'items.jsonl'
pretrain/Mixture.base = @own/Files()
own/Files.name = 'own'
own/Files.path = 'own.txt'
own/Files.tokens = 16000
own/Files.hygiene = @own/Hygiene()
{more}
"""


def test_a_corpus_that_is_not_kept_apart_from_the_items_is_refused_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "items.jsonl").write_text('{"context": "ana is", "aligned": "kind", "opposed": "cruel"}')
    (tmp_path / "own.txt").write_text("ana is here .\n" * 9)
    tiny = Path(__file__).parent / "tiny.gin"
    for more, refused in (
        ("own/Hygiene.exact = False", True),
        ("own/Hygiene.against = (@Items(),)", False),
        ("own/Hygiene.unchecked = ('mine',)", False),
    ):
        (tmp_path / "study.gin").write_text(STUDY.format(tiny=tiny, more=more))
        result = caml("data", "show", "study.gin")
        assert ("'own' is not kept apart from the items 'mine'" in result.stderr) == refused, result.stderr
        if refused:
            assert result.exit_code == 2 and result.stderr.count("\n") == 1 and "study.gin:" in result.stderr


def test_the_audit_tells_what_each_source_gives_and_what_doses_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = Path(__file__).parent / "tiny.gin"
    text = tiny.read_text().replace("'RATIO': [0.25]", "'RATIO': [0.125, 0.25]")
    (tmp_path / "doses.gin").write_text(text)
    before = caml("show", "doses.gin").stdout
    assert "treatment: compassion" in before and "are counted once the token stores are there" in before
    assert caml("data", "prepare", "doses.gin", "--set", "SEED=0").exit_code == 0
    shown = caml("show", "doses.gin", "--set", "SEED=0").stdout
    assert (
        "compassion, uniform: of the 24 slots of ratio 0.125, 24 hold the same documents at ratio 0.25"
        in shown
    )
    rows = [
        line.split() for line in shown.splitlines() if line.startswith("  compassion") and "treatment" in line
    ]
    assert [row[5:8] for row in rows] == [["0.125", "24", "0.1250"], ["0.25", "48", "0.2500"]]
    tokens = [int(row[9].replace(",", "")) for row in rows]
    assert 0 < tokens[0] < tokens[1] <= 48 * 64


def test_a_proxy_shows_the_epochs_of_the_run_that_it_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = f"include '{Path(__file__).parent / 'tiny.gin'}'\nBaseText.tokens = 50000\nDocuments.repetition = 4.0\n"
    own += "Ablation.axes = {'ARM': ['compassion'], 'TOKENS': [%d]}\nAblation.control = {}\nAblation.contrasts = ()\n"
    (tmp_path / "target.gin").write_text(own % 49152)
    (tmp_path / "proxy.gin").write_text(own % 12288 + "pretrain/Stage.target_tokens = 49152\n")
    epochs = {}
    for name in ("target", "proxy"):
        assert caml("data", "prepare", f"{name}.gin").exit_code == 0
        shown = caml("show", f"{name}.gin").stdout
        assert ("as if for 49,152 tokens: of each source it sees 0.25 of the sequences" in shown) == (
            name == "proxy"
        )
        rows = [line.split() for line in shown.splitlines() if line.startswith("  compassion")]
        epochs[name] = [float(row[-2]) for row in rows]
    assert epochs["proxy"] == pytest.approx(epochs["target"], rel=0.05) and epochs["target"][1] > 2
