"""WHAT a candidate costs and yields: metrics, measurements, tasks, devices."""
