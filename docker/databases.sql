-- Beside the ledger's database, which PostgreSQL's image makes itself, one for MLflow.
CREATE DATABASE mlflow;
