"""The seven rooms, one folder each: `step.py` does the work, `component.py` is the door that Kubeflow knows."""

IMAGE = "expunge-python:cpu"
