"""The service under load: Locust users, arrival processes, load shapes, and the thresholds that must hold."""
