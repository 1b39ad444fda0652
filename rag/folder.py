"""Which files of a folder are documents: `.gitignore`, `.ragignore`, patterns, hidden files.

All patterns are git's. As with git, the deeper file wins over the one above it, the later line over
the earlier, and nothing below a folder that is left out comes back. A `.ragignore` is read like a
`.gitignore` and after it, also where those are not to be followed. Links to files are followed,
links to folders are not: what they lead to may lie anywhere, or lead back.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from pathspec import GitIgnoreSpec

from rag.errors import InvalidInput

log = logging.getLogger(__name__)

GITIGNORE, RAGIGNORE = ".gitignore", ".ragignore"


@dataclass(frozen=True, slots=True)
class Selection:
    """What of a folder to take. Without `include` everything that nothing leaves out.

    `never` names folders that hold no documents wherever they are found: the data folder.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    gitignore: bool = True
    never: tuple[Path, ...] = ()

    def check(self) -> None:
        """Raise InvalidInput for a pattern that git would not take."""
        for pattern in (*self.include, *self.exclude):
            try:
                GitIgnoreSpec.from_lines([pattern])
            except ValueError:
                raise InvalidInput(
                    f"{pattern!r} is no pattern.",
                    hint="Patterns are those of a .gitignore: *.md, drafts/, docs/**/old.",
                ) from None

    def takes_name(self, name: str) -> bool:
        """Whether a file that is named by itself is taken: only `include` and `exclude` count."""
        return _included(self, name) and not _verdict(_Rules.of("", self.exclude), name, False)


@dataclass(slots=True)
class LeftOut:
    """What a walk came upon and could not go into."""

    links: list[Path] = field(default_factory=list)  # to folders
    unreadable: list[tuple[Path, str]] = field(default_factory=list)  # with the reason


def walk(folder: Path, selection: Selection, left_out: LeftOut | None = None) -> Iterator[Path]:
    """The files of a folder and of those below it, in the order of their paths."""
    left_out = left_out if left_out is not None else LeftOut()
    # What was named is meant, so a link that is named is followed.
    top = os.path.abspath(folder)  # noqa: PTH100 - Path.absolute keeps the dots in it
    never = {name for path in selection.never for name in (_absolute(path), os.path.realpath(path))}
    chosen = _Rules.of(top, selection.exclude)
    rules = [*_rules_above(top, selection), _rules_in(top, selection)]
    levels = [(_entries(top, left_out), rules)]
    while levels:
        entries, rules = levels[-1]
        entry = next(entries, None)
        if entry is None:
            levels.pop()
            continue
        kind = _kind(entry, left_out)
        if kind == "other" or entry.name.startswith(".") or entry.path in never:
            continue
        is_folder = kind != "file"
        if _verdict(chosen, entry.path, is_folder) or _is_ignored(rules, entry.path, is_folder):
            continue
        if kind == "link":
            left_out.links.append(Path(entry.path))
        elif kind == "folder":
            below = [*rules, _rules_in(entry.path, selection)]
            levels.append((_entries(entry.path, left_out), below))
        elif _included(selection, os.path.relpath(entry.path, top)):
            yield Path(entry.path)


@dataclass(frozen=True, slots=True)
class _Rule:
    """A line of an ignore file."""

    spec: GitIgnoreSpec  # of this line alone, without its `!`
    ignores: bool
    last: GitIgnoreSpec  # of its last part alone
    by_name: bool  # it has no slash, so it holds at any depth
    folders_only: bool
    of_all_below: bool  # it ends in `**`
    spans: bool  # it has a `**` within

    @classmethod
    def parse(cls, line: str) -> "_Rule | None":
        """The rule of a line, None for an empty one, a comment, and what git would not take."""
        text = line.rstrip()
        if not text or text.startswith("#"):
            return None
        ignores = not text.startswith("!")
        text = text if ignores else text[1:]
        try:
            spec = GitIgnoreSpec.from_lines([text])
        except ValueError:
            return None
        plain = text.removeprefix("**/").rstrip("/")
        above, _, name = plain.rpartition("/")
        return cls(
            spec,
            ignores,
            last=GitIgnoreSpec.from_lines([name]),
            by_name="/" not in plain,
            folders_only=text.endswith("/"),
            of_all_below=name == "**",
            spans="**" in above,
        )

    def matches(self, path: str, is_folder: bool) -> bool:
        """Whether it speaks of this very path, not only of a folder above it."""
        if self.folders_only and not is_folder:
            return False
        end = "/" if is_folder else ""
        above, _, name = path.rpartition("/")
        if self.by_name:
            return self.spec.match_file(name + end)
        if self.of_all_below and not self.folders_only:
            # Without the slash of a folder, or `a/**` would speak of `a` itself.
            return self.spec.match_file(path)
        if not self.spec.match_file(path + end):
            return False
        if self.of_all_below:
            return True
        if not self.last.match_file(name + end):
            return False
        return self.spans or not above or not self.spec.match_file(above + "/")


@dataclass(frozen=True, slots=True)
class _Rules:
    """The lines of a folder's ignore files, the last first."""

    folder: str
    rules: tuple[_Rule, ...]

    @classmethod
    def of(cls, folder: str, lines: Sequence[str]) -> "_Rules":
        parsed = [_Rule.parse(line) for line in reversed(lines)]
        return cls(folder, tuple(rule for rule in parsed if rule is not None))


def _verdict(rules: _Rules, path: str, is_folder: bool) -> bool | None:
    """True: left out; False: brought back; None: these rules do not say."""
    inside = path[len(rules.folder) :].lstrip("/")
    for rule in rules.rules:
        if rule.matches(inside, is_folder):
            return rule.ignores
    return None


def _is_ignored(rules: Sequence[_Rules], path: str, is_folder: bool) -> bool:
    for one in reversed(rules):
        said = _verdict(one, path, is_folder)
        if said is not None:
            return said
    return False


def _included(selection: Selection, path: str) -> bool:
    # Of what includes a folder, everything below it is meant: that is how the library matches.
    return not selection.include or _spec(selection.include).match_file(path)


@lru_cache(maxsize=16)
def _spec(patterns: tuple[str, ...]) -> GitIgnoreSpec:
    return GitIgnoreSpec.from_lines(patterns)


def _rules_in(folder: str, selection: Selection) -> _Rules:
    """What a folder's own ignore files say."""
    names = (GITIGNORE, RAGIGNORE) if selection.gitignore else (RAGIGNORE,)
    lines: list[str] = []
    for name in names:
        try:
            text = Path(folder, name).read_text("utf8", errors="surrogateescape")
        except FileNotFoundError:  # as nearly everywhere
            continue
        except OSError as error:
            log.warning("%s is not followed: %s", Path(folder, name), error)
            continue
        lines += text.removeprefix("\ufeff").splitlines()
    return _Rules.of(folder, lines)


def _rules_above(top: str, selection: Selection) -> list[_Rules]:
    """What the ignore files of the repository say in which a folder lies, outermost first.

    Nothing when they leave out the folder itself: it was named, so it is meant.
    """
    above = [Path(top), *Path(top).parents]
    root = next((at for at, path in enumerate(above) if (path / ".git").exists()), 0)
    rules: list[_Rules] = []
    for at in range(root, 0, -1):
        rules.append(_rules_in(str(above[at]), selection))
        if _is_ignored(rules, str(above[at - 1]), True):
            return []
    return rules


def _entries(folder: str, left_out: LeftOut) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return iter(sorted(found, key=lambda entry: entry.name))
    except OSError as error:
        left_out.unreadable.append((Path(folder), error.strerror or str(error)))
        return iter(())


def _kind(entry: os.DirEntry[str], left_out: LeftOut) -> str:
    """folder, link (to a folder), file, or other: a device, a pipe, a link to nothing."""
    try:
        if entry.is_dir():
            return "link" if entry.is_symlink() else "folder"
        return "file" if entry.is_file() else "other"
    except OSError as error:  # a link that leads to itself
        if not entry.name.startswith("."):
            left_out.unreadable.append((Path(entry.path), error.strerror or str(error)))
        return "other"


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - Path.absolute keeps the dots in it
