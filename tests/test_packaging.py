"""The wheel, installed into an empty environment, runs the main job outside the clone."""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_runs_the_demo(tmp_path):
    wheels = tmp_path / "wheels"
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(wheels), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    pins = str(ROOT / "constraints.txt")
    install = [str(python), "-m", "pip", "install", "--quiet", "-c", pins, str(wheel)]
    subprocess.run(install, check=True, cwd=tmp_path)
    outside = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAG_", "PYTHON"))
    }
    demo = subprocess.run(
        [str(environment / "bin" / "rag"), "demo"],
        cwd=tmp_path,
        env={**outside, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert "4 of 4 answers are right" in demo.stdout
    assert "Profile starter" in demo.stdout
