"""Runs of words that a document has in common with probes and benchmarks."""

import re
from collections.abc import Iterable

# Thai, kana and Chinese characters, which are written without spaces between words.
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def words_of(text: str) -> list[str]:
    """Runs of letters and digits of `text`, in lower case; of scripts without spaces each character is a word."""
    return WORD.findall(text.lower())


class Overlap:
    """Finds in documents any run of `length` words of the guarded texts, or a shorter text of `least` words as a whole.

    Source of the rule: Language Models are Few-Shot Learners, arXiv 2005.14165, appendix C (13 words).
    """

    def __init__(self, guarded: Iterable[tuple[str, str]], length: int, least: int):
        # Runs by their longest word, which is rare in other text: it alone is looked for at each place.
        self._runs: dict[str, dict[tuple[str, ...], tuple[int, str]]] = {}
        for name, text in guarded:
            words = words_of(text)
            if len(words) < least:
                continue
            size = min(length, len(words))
            for start in range(len(words) - size + 1):
                run = tuple(words[start : start + size])
                place = max(range(size), key=lambda i: len(run[i]))
                self._runs.setdefault(run[place], {}).setdefault(run, (place, name))

    def shared(self, text: str) -> tuple[str, str] | None:
        """Name of the guarded texts and the first run of theirs that `text` holds, or None."""
        if not self._runs:
            return None
        words = words_of(text)
        for i, word in enumerate(words):
            for run, (place, name) in self._runs.get(word, {}).items():
                start = i - place
                if start >= 0 and tuple(words[start : start + len(run)]) == run:
                    return name, " ".join(run)
        return None
