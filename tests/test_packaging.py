"""The wheel holds all that runs, and says what it needs.

Installing those needs takes minutes, and is what `make demo` does in a fresh clone; here the wheel
stands in an environment of its own, beside the packages that these tests run on.
"""

import ast
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib.metadata import packages_distributions, version
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rag

ROOT = Path(__file__).parents[1]
SHIPPED = ("rag", "services", "eval")
RUNNING_EXTRAS = ("postgres", "s3", "ocr", "otel", "eval", "mteb")
USERS_OWN = {"ir_datasets", "ranx"}  # used where a user has them


def test_the_wheel_runs_the_demo(tmp_path):
    wheels = tmp_path / "wheels"
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = environment / "lib" / version / "site-packages"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", str(packages), str(wheel)], check=True, cwd=tmp_path)
    for name in ("grafana.json", "alerts.yml"):
        assert (packages / "services" / "observability" / name).is_file()
    page = packages / "services" / "ui"
    assert (page / "dist" / "index.html").is_file()
    assert [path.suffix for path in (page / "dist" / "assets").iterdir()].count(".js") == 1
    assert {path.name for path in page.iterdir()} == {"dist"}  # not what it is built from
    # A path in a .pth file is searched last, and .pth files in it, such as the clone's own, are not
    # read.
    (packages / "needs.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    outside = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAG_", "PYTHON"))
    }
    demo = subprocess.run(
        [
            str(environment / "bin" / "python"),
            "-c",
            "from services.cli import main; main()",
            "demo",
        ],
        cwd=tmp_path,
        env={**outside, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "4 of 4 answers are right" in demo.stdout
    assert "Profile starter" in demo.stdout
    where = "import rag, services, eval.retrieval; print(rag.__file__, services.__file__)"
    found = subprocess.run(
        [str(environment / "bin" / "python"), "-c", where],
        cwd=tmp_path, env=outside, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert all(Path(path).is_relative_to(packages) for path in found.stdout.split())


def test_the_version_is_the_same_wherever_it_is_written():
    assert version("ragstone") == rag.__version__


def test_whatever_is_imported_is_a_declared_need():
    """Of what runs without extras, and with each: a package that another one brings may go."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
    extras = [project["optional-dependencies"][name] for name in RUNNING_EXTRAS]
    declared = chain(project["dependencies"], *extras)
    needs = {canonicalize_name(Requirement(text).name) for text in declared}
    distributions = packages_distributions()
    undeclared = {
        f"{name} in {path.relative_to(ROOT)}"
        for path in shipped()
        for name in imported(path)
        if name not in sys.stdlib_module_names
        and name not in {*SHIPPED, *USERS_OWN}
        and not needs & {canonicalize_name(one) for one in distributions.get(name, [name])}
    }
    assert undeclared == set()


def shipped():
    built = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["tool"]["hatch"]["build"]
    excluded = built["targets"]["wheel"]["exclude"]
    for package in SHIPPED:
        for path in (ROOT / package).rglob("*.py"):
            if not any(path.is_relative_to(ROOT / left_out) for left_out in excluded):
                yield path


def imported(path):
    """The top-level packages that a module imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text("utf8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
