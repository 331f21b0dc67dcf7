"""What watches the service: rules, alerts, dashboards, a view for the terminal. It reads metrics and nothing else."""
