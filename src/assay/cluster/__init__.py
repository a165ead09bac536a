"""Where trials run."""

from .executors import Call, InlineExecutor, JobExecutor, SpawnedProcesses, executor, run_all

__all__ = ["Call", "InlineExecutor", "JobExecutor", "SpawnedProcesses", "executor", "run_all"]
