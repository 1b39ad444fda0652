"""What people use: the command line and the HTTP services. Thin; the work is done in `rag`."""
