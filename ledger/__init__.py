"""What was predicted, and what came true.

Each worker of the service appends its predictions to a spool file of its own (``spool``); one drainer process
(``drainer``) moves them into the database (``schema``, ``store``), SQLite or PostgreSQL.
"""
