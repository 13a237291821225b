"""dux-sandbox: the worker that alone starts sandboxes, one for each task."""
