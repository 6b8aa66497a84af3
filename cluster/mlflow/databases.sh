#!/bin/sh
# Run by PostgreSQL's image once, when its folder is empty: a second database for MLflow's users.
set -eu
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" -c 'CREATE DATABASE mlflow_auth'
