"""Airflow provider for long-running operations (google.longrunning)."""

__version__ = "0.1.0"
