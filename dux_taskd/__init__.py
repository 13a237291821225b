"""dux-taskd: queue, scheduling and execution of tasks."""
