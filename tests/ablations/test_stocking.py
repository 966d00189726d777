"""`caml data`: token stores of a file's corpora, prepared, shown and verified through the public commands."""

import hashlib
import json
import random
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
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
    assert "29 documents for 29, 100.0% of equal length" in first.stdout and "(+0.00%)" in first.stdout
    assert caml("data", "prepare", "corpora.gin").stdout.count(": there already, ") == 3
    shown = caml("data", "show", "corpora.gin", "--samples", "2").stdout
    assert (
        shown.count("  [0] <|endoftext|>") == 3 and "licence: CC0-1.0" in shown and "bytes of text" in shown
    )
    assert shown.count("left out of") == 2 and "  drawn from 200 documents of pool\n" in shown
    verified = caml("data", "verify", "corpora.gin")
    assert verified.exit_code == 0 and verified.stdout.count("as it was written") == 4
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


def table(printed: str) -> dict[str, list[str]]:
    """The rows of a table, by what they are of."""
    rows = [re.split(r" {2,}", line.strip()) for line in printed.splitlines() if line.startswith("  ")]
    return {what: cells for what, *cells in rows}


def test_a_control_is_held_against_its_treatment_and_an_unmatched_draw(folder: Path) -> None:
    printed = caml("data", "match", "corpora.gin", "--write", "control.jsonl").stdout
    ours, pool = (open_store(next(folder.glob(f"runs/stores/{name}-*"))) for name in ("care", "pool"))
    wanted, there = np.diff(ours.bounds), np.diff(pool.bounds)
    rows = table(printed)
    assert rows["documents"] == ["29"] * 3 and rows["tokens"][:2] == [f"{wanted.sum():,}"] * 2
    assert rows["tokens of a document, 50%"][0] == f"{np.median(wanted):,.0f}"
    apart = [float(cell) for cell in rows["lengths: Kolmogorov-Smirnov distance"]]
    assert apart[0] == 0 and apart[1] > 0.1
    written = [json.loads(line) for line in (folder / "control.jsonl").read_text().splitlines()]
    drawn = there[[row["pool_document"] for row in written]]
    more = drawn[drawn > wanted] - wanted[drawn > wanted]
    assert (drawn >= wanted).all() and len(more) > 1
    cut = f"{len(more)} of 29 documents, by {more.mean():.1f} tokens on average and {more.max()} at most"
    assert f"cut: {cut}, in all {more.sum():,} of {drawn.sum():,}" in printed
    assert "shorter, as pool had none as long: none" in printed
    # The words, counted anew from the two texts.
    texts = [json.loads(line)["text"] for line in (folder / "care.jsonl").read_text().splitlines()]
    counts = [
        Counter(" ".join(text).split()) for text in (texts[:7] + texts[8:], (row["text"] for row in written))
    ]
    words = sorted(counts[0] | counts[1])
    bits = jensenshannon(*([count[word] for word in words] for count in counts), base=2) ** 2
    assert rows["words: Jensen-Shannon divergence, bits"][0] == f"{bits:.3f}"
    assert (
        rows["words: shared of the 1,000 commonest"][0]
        == f"{len(set(counts[0]) & set(counts[1])) / len(counts[0]):.1%}"
    )


def test_the_text_of_a_control_is_written_out_with_what_it_stands_for(folder: Path) -> None:
    first = caml("data", "match", "corpora.gin")
    assert first.exit_code == 0 and not (folder / "control.jsonl").exists()
    again = caml("data", "match", "corpora.gin", "--write", "control.jsonl")
    assert (
        "there already" in again.stdout and "control.jsonl: 29 documents; licence: not stated" in again.stdout
    )
    rows = [json.loads(line) for line in (folder / "control.jsonl").read_text().splitlines()]
    pool = (folder / "pool.txt").read_text().splitlines()
    (store,) = folder.glob("runs/stores/matched-*")
    lengths = np.diff(open_store(store).bounds).tolist()
    # The eighth is left out by hygiene.
    assert [row["treatment_place"] for row in rows] == [f"care.jsonl:{n}" for n in range(1, 31) if n != 8]
    for number, row in enumerate(rows):
        assert pool[row["pool_document"]].startswith(row["text"].strip()) and len(row["text"]) > 20
        assert row["control"] == store.name and row["treatment_document"] == number
        assert row["tokens"] == row["treatment_tokens"] == lengths[number]
    assert len({row["pool_document"] for row in rows}) == 29


def test_a_topic_is_matched_by_words_and_seen_in_the_numbers(folder: Path) -> None:
    rng = random.Random(1)
    topics = [["owl", "wing", "nest"], ["ship", "sail", "mast"]]

    def texts(of: int, count: int) -> list[str]:
        return [" ".join(rng.choices(WORDS, k=10) + rng.choices(topics[of], k=20)) for _ in range(count)]

    (folder / "care.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts(0, 20)))
    (folder / "pool.txt").write_text("\n".join(texts(0, 40) + texts(1, 40)))
    owls = {}
    for topic in (False, True):
        (folder / "corpora.gin").write_text(f"{GIN}control/Matched.topic = {topic}\n")
        printed = caml("data", "match", "corpora.gin", "--write", f"{topic}.jsonl").stdout
        drawn = [json.loads(line) for line in (folder / f"{topic}.jsonl").read_text().splitlines()]
        owls[topic] = sum(row["pool_document"] < 40 for row in drawn) / len(drawn)
    assert owls[False] < 0.8 and owls[True] == 1
    alike, unmatched = map(float, table(printed)["words: cosine of TF-IDF, document by document"])
    assert "the nearest in topic of 64" in printed and alike > unmatched + 0.1
    more, less = (float(cell) for cell in table(printed)["words: Jensen-Shannon divergence, bits"])
    assert more < less and "oftener in matched" in printed


@pytest.mark.parametrize(
    "gin, write, says",
    [
        (GIN.replace("(@care/Files(), @control/Matched())", "(@care/Files(),)").split("control/")[0],
         "new.jsonl", "corpora.gin asks for no matched control: bind control/Matched.name"),
        (GIN, "care.jsonl", "--write care.jsonl: this is there already"),
        (GIN, "nowhere/new.jsonl", "--write nowhere/new.jsonl: there is no folder nowhere"),
    ],
)  # fmt: skip
def test_what_cannot_be_matched_or_written_is_one_line(folder: Path, gin: str, write: str, says: str) -> None:
    (folder / "corpora.gin").write_text(gin)
    before = {path: path.read_text() for path in folder.iterdir()}
    result = caml("data", "match", "corpora.gin", "--write", write)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and result.stdout == ""
    assert says in result.stderr, result.stderr
    assert {path: path.read_text() for path in folder.iterdir()} == before


def test_a_pool_that_falls_short_is_counted_and_one_of_too_few_is_refused(folder: Path) -> None:
    pool = folder / "pool.txt"
    texts = pool.read_text().splitlines()
    pool.write_text("\n".join(" ".join(text.split()[:20]) for text in texts))
    printed = caml("data", "match", "corpora.gin").stdout
    assert (
        "NOT MATCHED in tokens: take a pool of longer documents" in caml("data", "show", "corpora.gin").stdout
    )
    ours, control = (open_store(next(folder.glob(f"runs/stores/{name}-*"))) for name in ("care", "matched"))
    short = np.diff(ours.bounds) - np.diff(control.bounds)
    lack = f"{(short > 0).sum()} of 29 documents, by {short[short > 0].mean():.1f} tokens on average"
    assert (short > 0).sum() > 5 and f"shorter, as pool had none as long: {lack}" in printed
    pool.write_text("\n".join(texts[:9]))
    result = caml("data", "match", "corpora.gin", "--write", "control.jsonl")
    assert result.exit_code == 2 and "pool has 9 documents, and care 29" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("caml: ") and not (folder / "control.jsonl").exists()


def test_the_matched_arm_of_an_ablation_is_drawn(folder: Path) -> None:
    tiny = Path(__file__).parent / "tiny.gin"
    (folder / "study.gin").write_text(
        f"include '{tiny}'\nARM = @control/Matched()\nAblation.control = {{}}\nAblation.contrasts = ()\n"
        "Ablation.axes = {'RATIO': [0.1]}\npretrain/Mixture.intervention = %ARM\n"
        + GIN.split("TrainedTokenizer.source")[0].split("Corpora.tokenizer = @TrainedTokenizer()\n")[1]
        + GIN.split("TrainedTokenizer.source = @pool/Files()\n")[1]
    )
    result = caml("data", "match", "study.gin")
    assert result.exit_code == 0, result.stderr
    shown = " ".join(caml("data", "match", "--help").stdout.split())
    assert "Example: caml data match experiments/real-text/real_text.gin" in shown
    assert "matched-" in result.stdout and "for each document of care one of 200 of pool" in result.stdout


def test_a_file_of_corpora_is_no_ablation(folder: Path) -> None:
    result = caml("run", "corpora.gin")
    assert result.exit_code == 2 and not (folder / "runs").exists()
    assert result.stderr.startswith(
        "caml: corpora.gin binds Corpora and no Ablation: it is for `caml data prepare`"
    )


def test_a_wrong_byte_is_found_and_named(folder: Path) -> None:
    assert caml("data", "prepare", "corpora.gin").exit_code == 0
    path = next(folder.glob("runs/stores/care-*/tokens.bin"))
    content = bytearray(path.read_bytes())
    content[9] ^= 1
    path.write_bytes(content)
    result = caml("data", "verify", "corpora.gin")
    assert result.exit_code == 1 and result.stdout.count(": as it was written") == 3
    assert f"{path}: chunk 0" in result.stdout and "1 of 4 not as written" in result.stderr


def test_a_tokenizer_that_was_altered_or_is_not_the_stores_is_found(folder: Path) -> None:
    assert caml("data", "prepare", "corpora.gin").exit_code == 0
    (tokenizer,) = folder.glob("runs/tokenizers/*")
    content = (tokenizer / "tokenizer.json").read_text()
    (tokenizer / "tokenizer.json").write_text(content.replace('"a"', '"b"', 1))
    result = caml("data", "verify", "corpora.gin")
    assert result.exit_code == 1 and result.stdout.count(": as it was written") == 3
    assert f"{tokenizer}/tokenizer.json is not the tokenizer" in result.stdout
    shutil.rmtree(tokenizer)
    result = caml("data", "verify", "corpora.gin")
    assert result.exit_code == 1 and f"{tokenizer} is not there" in result.stdout
    assert not tokenizer.exists()  # it looks, and makes nothing
    # One that was made anew from other text.
    other = content.replace('"add_prefix_space": false', '"add_prefix_space": true')
    assert other != content
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text(other)
    (tokenizer / "manifest.json").write_text(
        json.dumps({"digest": hashlib.sha256(other.encode()).hexdigest()})
    )
    result = caml("data", "verify", "corpora.gin")
    assert result.exit_code == 1 and result.stdout.count("was written by another tokenizer") == 3


@pytest.mark.parametrize(
    "old, new, says",
    [
        ("'care.jsonl'", "'gone.jsonl'", ["corpora.gin:8", "gone.jsonl does not exist"]),
        ("care/Files.licence", "other/Files.licence", ["corpora.gin:9", "other"]),
        ("Corpora.", "Corpus.", ["binds neither Ablation nor Corpora"]),
        ("vocabulary = 300", "vocabulary = 100", ["vocabulary of at least"]),
        *(
            (
                "control/Matched.name",
                f"{of}/Files.schema = @{schema}()\ncontrol/Matched.name",
                [f"corpora.gin:{line}: control/Matched.{field}", "a corpus of text alone"],
            )
            for schema in ("Chosen", "Rated", "Messages", "Instruction", "Either")
            for of, field, line in (("care", "treatment", 19), ("pool", "pool", 20))
        ),
        ("'items.txt'", "'gone.txt'", ["corpora.gin:14: items/Files.path", "gone.txt does not exist"]),
        ("'pool.txt'", "'gone.txt'", ["corpora.gin:16: pool/Files.path", "gone.txt does not exist"]),
        (
            GIN[GIN.index("Corpora.tokenizer") : GIN.index("care/Files.name")],
            "Corpora.tokenizer = @LoadedTokenizer()\nLoadedTokenizer.vocabulary = 300\nLoadedTokenizer.path = '.'\n",
            ["corpora.gin:5: LoadedTokenizer.path", "has no tokenizer.json"],
        ),
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


def test_items_that_are_not_there_are_told_by_their_own_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.txt").write_text("ana is here .\n" * 9)
    tiny = Path(__file__).parent / "tiny.gin"
    against = "own/Hygiene.against = (@Items(), @held/Files())\nheld/Files.name = 'held'\n"
    text = STUDY.format(tiny=tiny, more=f"{against}held/Files.path = 'own.txt'\nITEMS = 'items.jsonl'\n")
    (tmp_path / "study.gin").write_text(text.replace("path = 'items.jsonl'", "path = %ITEMS"))
    for items, wrong in (("gone.jsonl", "does not exist"), (".", "is a folder")):
        result = caml("data", "show", "study.gin", "--set", f"ITEMS='{items}'")
        assert result.exit_code == 2 and result.stderr.count("\n") == 1
        assert f"Items.path: {items} {wrong}" in result.stderr, result.stderr


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
