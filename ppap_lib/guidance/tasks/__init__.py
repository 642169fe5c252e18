"""Tasks: what a vision model's output means. A new task is one class with two methods."""

from ppap_lib.guidance.tasks.classification import Classification, Target, Task

__all__ = ["Classification", "Target", "Task"]
