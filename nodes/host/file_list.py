"""The files that can be loaded for one purpose, with the errors for those that cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .folders import paths_in

SHOWN = 4
"""Number of names that an error lists."""


@dataclass(frozen=True, kw_only=True)
class FileList:
    """The files in some of ComfyUI's model folders that can be loaded for one purpose.

    ``categories`` are the folders, such as "checkpoints". Files of the first category are listed by name,
    those of others with the category before the name: ``vae/x.safetensors``; the name alone finds these too,
    since ComfyUI's page downloads a file under its name alone. In errors ``what`` names the purpose, and
    ``download`` says which files to download to which folders. ``problem`` returns why the file at a path
    cannot be loaded, "" if it can. Files at whose paths ``list_anyway`` is true are listed last although they
    cannot be loaded: choosing such a file is an error that says why.
    """

    what: str
    categories: tuple[str, ...]
    problem: Callable[[Path], str]
    download: str
    list_anyway: Callable[[Path], bool] = lambda path: False

    def names(self) -> list[str]:
        """Names of the files that can be loaded, followed by those that are listed although they cannot."""
        usable, faulty = self._sorted()
        return usable + faulty

    @property
    def placeholder(self) -> str:
        """The only entry of a list without files; choosing it is an error that says what to download."""
        return f"no {self.what.removeprefix('a ').removeprefix('an ')} found"

    def path(self, name: str) -> Path:
        """The path of the listed file ``name``. Raises ValueError if it cannot be loaded."""
        if message := self.refusal(name):
            raise ValueError(message)
        path = self._found(name)
        assert path is not None, "refusal() names a file that is not there"
        return path

    def refusal(self, name: str) -> str:
        """Why the file ``name`` cannot be loaded, and which files can; "" if it can."""
        # The files are listed again at each call: the user may have added or removed some since the nodes
        # were defined.
        path = self._found(name)
        # The placeholder is checked first, because it is no file and would else be reported as a missing one.
        if name == self.placeholder:
            reason = f"{self.placeholder} in models/{' or models/'.join(self.categories)}"
        elif path is None:
            reason = f"{name} is not in models/{' or models/'.join(self.categories)}"
        elif reason := self.problem(path):
            reason = f"{name} cannot serve as {self.what}: {reason}"
        else:
            return ""
        names, _ = self._sorted()
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        choose = f"Choose {', '.join(names[:SHOWN])}{more}, or download" if names else "Download"
        return f"{reason}. {choose} {self.download}"

    def _found(self, name: str) -> Path | None:
        """The path of the file that is listed as ``name``, or else below one of the categories."""
        listed = dict(self._listed())
        names = (name, *(f"{category}/{name}" for category in self.categories))
        return next((listed[one] for one in names if one in listed), None)

    def _sorted(self) -> tuple[list[str], list[str]]:
        """Two lists of names: files that can be loaded, and files that are listed although they cannot."""
        usable: list[str] = []
        faulty: list[str] = []
        for name, path in self._listed():
            if not self.problem(path):
                usable.append(name)
            elif self.list_anyway(path):
                faulty.append(name)
        return usable, faulty

    def _listed(self) -> Iterator[tuple[str, Path]]:
        """Yield name and path of every file in the categories, loadable or not."""
        for category in self.categories:
            for name, path in paths_in(category):
                yield (name if category == self.categories[0] else f"{category}/{name}"), path
