"""What networks are for. Everything else calls a task through its row, and knows none by name."""

from atrous.tasks.classification import CLASSIFICATION
from atrous.tasks.contract import Task
from atrous.tasks.panoptic import PANOPTIC
from atrous.tasks.semantic import SEMANTIC

__all__ = ["TASKS", "Task"]

TASKS: dict[str, Task] = {
    "semantic": SEMANTIC,
    "panoptic": PANOPTIC,
    "classification": CLASSIFICATION,
}
