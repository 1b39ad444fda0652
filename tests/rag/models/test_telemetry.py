"""Nothing that we build on reports to anybody."""

import subprocess
import sys

SEEN = """
import os
forked = []
os.register_at_fork(before=lambda: forked.append(1))
import rag.models.openvino
import nncf.telemetry.wrapper as nncf
from openvino.tools.ovc import telemetry_utils as openvino
assert openvino.tm.__name__ == "openvino.tools.ovc.telemetry_stub", openvino.tm
assert type(nncf.telemetry).__name__ != "NNCFTelemetry"
assert not forked
"""


def test_openvino_and_nncf_report_nothing_and_fork_nothing():
    """A fork would hold the lock of the data folder, and outlive a process that is killed."""
    ended = subprocess.run([sys.executable, "-c", SEEN], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
