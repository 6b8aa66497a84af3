#!/bin/sh
# Starts MLflow before PostgreSQL. Passwords come from the environment only and stand on no command line:
# PGPASSWORD is read by PostgreSQL's client, MLFLOW_AUTH_ADMIN_PASSWORD by MLflow at its first start.
set -eu
: "${PGPASSWORD:?password of the database}"
: "${MLFLOW_AUTH_ADMIN_PASSWORD:?the password of the first user, admin}"
: "${MLFLOW_FLASK_SERVER_SECRET_KEY:?any long random text}"
umask 077
cat > "$HOME/auth.ini" <<INI
[mlflow]
default_permission = EDIT
database_uri = postgresql+psycopg2://${PGUSER:-mlflow}@${PGHOST:-postgres}:${PGPORT:-5432}/${MLFLOW_AUTH_DATABASE:-mlflow_auth}
admin_username = ${MLFLOW_AUTH_ADMIN_USERNAME:-admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
grant_default_workspace_access = true
INI
export MLFLOW_AUTH_CONFIG_PATH="$HOME/auth.ini"
# Runs of jobs inside the server would cost eight processes; nothing here asks for them.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
exec mlflow server \
  --app-name basic-auth \
  --backend-store-uri "postgresql+psycopg2://${PGUSER:-mlflow}@${PGHOST:-postgres}:${PGPORT:-5432}/${PGDATABASE:-mlflow}" \
  --artifacts-destination "${MLFLOW_ARTIFACTS:-/artifacts}" \
  --host 0.0.0.0 --port 5000 --workers "${MLFLOW_WORKERS:-2}" \
  --allowed-hosts "${MLFLOW_ALLOWED_HOSTS:-localhost:*,127.0.0.1:*}" \
  --cors-allowed-origins "${MLFLOW_CORS_ORIGINS:-http://localhost:5000}"
