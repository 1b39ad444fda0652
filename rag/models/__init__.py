"""The models: what each needs, where its files are, and the engines that run it."""

import sys

# OpenVINO and NNCF would report their use to their makers, from a forked copy of this process: it
# may hang for ever, as copies of processes with threads do, and with it goes the lock of the data
# folder. Both do without where the package that reports cannot be imported.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # Python's own way to say so
