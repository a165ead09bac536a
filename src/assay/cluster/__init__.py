"""Where trials run."""

from .executors import Call, InlineExecutor, SpawnedProcesses, executor, run_all

__all__ = ["Call", "InlineExecutor", "SpawnedProcesses", "executor", "run_all"]
