"""Which files of a folder are taken: git's rules, our own patterns, links."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rag.errors import InvalidInput
from rag.folder import LeftOut, Selection, walk


def make(root: Path, *files: str, **ignore: str) -> None:
    """Files that hold their name; `ignore` is the text of ignore files, by folder."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    for folder, text in ignore.items():
        where = root / ("" if folder == "top" else folder)
        where.mkdir(parents=True, exist_ok=True)
        (where / ".gitignore").write_text(text)


def taken(root: Path, selection: Selection | None = None) -> set[str]:
    found = walk(root, selection or Selection())
    return {os.path.relpath(path, root) for path in found}


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ("", {"a.md", "b.log", "docs/c.md", "docs/build/d.md", "build/e.md"}),
        ("# nothing\n\n*.log\n", {"a.md", "docs/c.md", "docs/build/d.md", "build/e.md"}),
        ("build/\n", {"a.md", "b.log", "docs/c.md"}),
        ("/build/\n", {"a.md", "b.log", "docs/c.md", "docs/build/d.md"}),
        ("docs/build\n", {"a.md", "b.log", "docs/c.md", "build/e.md"}),
        # What is below a folder that is left out does not come back,
        ("docs/\n!docs/c.md\n", {"a.md", "b.log", "build/e.md"}),
        # but what of a folder is left out does.
        ("docs/*\n!docs/c.md\n", {"a.md", "b.log", "build/e.md", "docs/c.md"}),
        # Everything but one kind.
        ("*\n!*/\n!*.log\n", {"b.log"}),
        ("**/build\n", {"a.md", "b.log", "docs/c.md"}),
        ("docs/**\n", {"a.md", "b.log", "build/e.md"}),
        # The last line counts.
        ("!a.md\na.md\n", {"b.log", "docs/c.md", "docs/build/d.md", "build/e.md"}),
        ("a.md\n!a.md\n", {"a.md", "b.log", "docs/c.md", "docs/build/d.md", "build/e.md"}),
        # A line that git would discard is discarded.
        ("[a\n", {"a.md", "b.log", "docs/c.md", "docs/build/d.md", "build/e.md"}),
    ],
)
def test_lines_of_a_gitignore(tmp_path, lines, kept):
    make(tmp_path, "a.md", "b.log", "docs/c.md", "docs/build/d.md", "build/e.md", top=lines)
    assert taken(tmp_path) == kept


def test_a_deeper_file_wins(tmp_path):
    make(tmp_path, "a.md", "sub/a.md", "sub/b.md", top="a.md\n", sub="!a.md\nb.md\n")
    assert taken(tmp_path) == {"sub/a.md"}
    assert taken(tmp_path, Selection(gitignore=False)) == {"a.md", "sub/a.md", "sub/b.md"}


def test_a_ragignore_comes_after_and_stays(tmp_path):
    make(tmp_path, "a.md", "b.md", "c.md", top="a.md\nb.md\n")
    (tmp_path / ".ragignore").write_text("!a.md\nc.md\n")
    assert taken(tmp_path) == {"a.md"}
    assert taken(tmp_path, Selection(gitignore=False)) == {"a.md", "b.md"}


def test_the_repository_above_counts_unless_it_leaves_out_the_folder(tmp_path):
    make(tmp_path, "docs/a.md", "docs/_build/b.md", "out/c.md", "out/_build/d.md",
         top="_build/\n/out/\n")  # fmt: skip
    assert taken(tmp_path / "docs") == {"a.md", "_build/b.md"}  # it is no repository
    (tmp_path / ".git").mkdir()
    assert taken(tmp_path / "docs") == {"a.md"}
    assert taken(tmp_path / "out") == {"c.md", "_build/d.md"}  # named, so it is meant


def test_include_and_exclude(tmp_path):
    make(tmp_path, "a.md", "b.txt", "docs/c.md", "docs/d.txt", "docs/drafts/e.md", top="a.md\n")
    assert taken(tmp_path, Selection(include=("*.md",))) == {"docs/c.md", "docs/drafts/e.md"}
    assert taken(tmp_path, Selection(include=("docs/",), exclude=("drafts/",))) == {
        "docs/c.md",
        "docs/d.txt",
    }
    both = Selection(include=("*.md", "*.txt"), exclude=("*", "!*/", "!c.md"))
    assert taken(tmp_path, both) == {"docs/c.md"}


def test_a_file_that_is_named_heeds_patterns_only():
    assert Selection().takes_name("a.md")
    assert not Selection(exclude=("*.md",)).takes_name("a.md")
    assert not Selection(include=("*.txt",)).takes_name("a.md")


def test_a_pattern_that_is_none_is_refused():
    for selection in (Selection(include=("!",)), Selection(exclude=("!",))):
        with pytest.raises(InvalidInput, match="no pattern"):
            selection.check()


def test_links(tmp_path):
    make(tmp_path, "docs/a.md", "elsewhere/b.md")
    docs = tmp_path / "docs"
    (docs / "loop").symlink_to(docs)
    (docs / "away").symlink_to(tmp_path / "elsewhere")
    (docs / "b.md").symlink_to(tmp_path / "elsewhere" / "b.md")
    (docs / "itself").symlink_to(docs / "itself")
    (docs / "broken").symlink_to(docs / "nothing")
    left_out = LeftOut()
    found = [path.name for path in walk(docs, Selection(), left_out)]
    assert found == ["a.md", "b.md"]
    assert [path.name for path in left_out.links] == ["away", "loop"]
    assert [path.name for path, _ in left_out.unreadable] == ["itself"]
    # A link that is named is meant.
    assert [path.name for path in walk(docs / "away", Selection())] == ["b.md"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_told(tmp_path):
    make(tmp_path, "a.md", "secret/b.md")
    (tmp_path / "secret").chmod(0)
    left_out = LeftOut()
    try:
        assert [path.name for path in walk(tmp_path, Selection(), left_out)] == ["a.md"]
    finally:
        (tmp_path / "secret").chmod(0o700)
    assert [path.name for path, _ in left_out.unreadable] == ["secret"]


def test_the_data_folder_holds_no_documents(tmp_path):
    make(tmp_path, "a.md", "ragstone-data/objects/ab/abcd")
    never = (tmp_path / "ragstone-data",)
    assert taken(tmp_path, Selection(never=never)) == {"a.md"}


NAMES = st.sampled_from(["a", "b", "c.md", "d.txt"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
LINES = st.tuples(
    st.sampled_from(["", "!"]),
    st.sampled_from([
        "a", "/a", "a/", "b", "c.md", "*.md", "*", "*/", "/*", "/*/", "a/b", "a/b/", "a/*", "a/**",
        "**/b", "**/b/", "a/**/b", "/a/b/*", "?", "[ab]", "\\a", "a/*/c.md", "# a", "",
    ]),
).map("".join)  # fmt: skip


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@settings(max_examples=60, deadline=None)
@example(files={"a/a"}, top=["a/**"], below=["!a"])  # what is below is left out, `a` is not
@given(
    files=st.sets(PATHS, min_size=1, max_size=8),
    top=st.lists(LINES, max_size=4),
    below=st.lists(LINES, max_size=3),
)
def test_it_is_what_git_does(files, top, below):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in files:
            path = root / name
            if path.exists() or any(above.is_file() for above in path.parents):
                continue  # a name cannot be both a file and a folder
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
        (root / ".gitignore").write_text("\n".join(top))
        if (root / "a").is_dir():
            (root / "a" / ".gitignore").write_text("\n".join(below))
        assert taken(root) == _untracked(root)


def _untracked(root: Path) -> set[str]:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=root, env=environment, check=True, capture_output=True,
            text=True,
        )  # fmt: skip
        return done.stdout

    git("init", "--quiet", "--template=")
    listed = git("ls-files", "--others", "--exclude-standard", "-z").split("\0")
    return {name for name in listed if name and not name.endswith(".gitignore")}
