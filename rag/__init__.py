"""Ragstone: documents in, cited answers out. Start at `rag.orchestrator`."""

__version__ = "0.1.0"
