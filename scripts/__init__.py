"""What a contributor runs: a real Airflow in a temporary home, and the demo on top of it."""
