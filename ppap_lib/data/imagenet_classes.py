"""Class names, ImageNet-1k indices and WordNet ids (wnids), each from each."""

import difflib
import re
from collections.abc import Iterable
from functools import cache

from ppap_lib.arguments import shown
from ppap_lib.errors import InputError

_WNID = re.compile(r"n\d{8}")


class Synsets:
    """An ordered list of classes, found by name or wnid.

    Parameters
    ----------
    pairs
        A (wnid, "name, synonym, ...") for each class.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]):
        pairs = list(pairs)
        self.wnids = tuple(wnid for wnid, _ in pairs)
        self.names = tuple(text.split(",")[0].strip() for _, text in pairs)
        self._by_wnid = {wnid: index for index, wnid in enumerate(self.wnids)}
        self._by_name: dict[str, list[int]] = {}
        for index, (_, text) in enumerate(pairs):
            for name in text.split(","):
                self._by_name.setdefault(_plain(name), []).append(index)

    def __len__(self) -> int:
        return len(self.wnids)

    def index(self, name: str) -> int:
        """Return the index of the class with this wnid or name.

        Parameters
        ----------
        name
            Any synonym, in any case. A class's first name wins over another's synonym, and the
            exact spelling over another (Cardigan is a dog, cardigan a garment).

        Raises
        ------
        InputError
            For a misspelling, with suggestions; for a name of several classes, with their wnids.
        """
        if not isinstance(name, str):
            raise InputError(f"a class is named, not numbered: {shown(name)}")
        if _WNID.fullmatch(name):
            if name not in self._by_wnid:
                raise InputError(f"no class with wnid {name!r} among these {len(self)}")
            return self._by_wnid[name]
        indices = self._by_name.get(_plain(name), [])
        if not indices:
            close = difflib.get_close_matches(_plain(name), self._by_name, n=3, cutoff=0.6)
            spelt = dict.fromkeys(self.names[self._by_name[match][0]] for match in close)
            hint = f": did you mean {' or '.join(spelt)}?" if spelt else ""
            raise InputError(f"no class named {name!r} among these {len(self)}{hint}")
        first = [i for i in indices if _plain(self.names[i]) == _plain(name)] or indices
        matches = [i for i in first if self.names[i] == name] or first
        if len(matches) > 1:
            listed = ", ".join(f"{self.wnids[i]} ({self.names[i]}, index {i})" for i in matches)
            raise InputError(f"{name!r} means several classes: {listed}; give a wnid")
        return matches[0]


def _plain(name: str) -> str:
    """The name in lower case, with single spaces."""
    return " ".join(name.replace("_", " ").lower().split())


@cache
def imagenet() -> Synsets:
    """Return the 1,000 classes of ImageNet-1k in their usual order; Chihuahua is 151."""
    from timm.data import ImageNetInfo

    return Synsets(ImageNetInfo().label_descriptions(as_dict=True).items())
