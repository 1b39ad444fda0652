"""What people use: the command line and the HTTP services. Thin; the work is done in `rag`."""

import os

# numpy's products here are small. OpenBLAS's threads gain nothing on them, and those of several
# questions at once spin and wait for one another: of 16 askers on two busy cores the median waited
# 11.6 s with them and 2.8 s without. OpenBLAS reads this when numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
