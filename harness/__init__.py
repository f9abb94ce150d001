"""The central harness: records, task specs, model backends, the pipeline and the command line."""

__version__ = "0.1.0"
