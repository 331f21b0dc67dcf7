"""Monitoring: rules, alerts, dashboards and a terminal view. It reads metrics and nothing else."""
