"""One MLflow server for all tests of the registry, on SQLite and loopback."""

import os
import subprocess
import sys

import pytest
from mlflow_processes import free_port, stop, wait_for


@pytest.fixture(scope="session")
def quiet_environment() -> dict[str, str]:
    """Of processes of MLflow that tests start."""
    return {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def mlflow_home(tmp_path_factory):
    """The server's folder: its database and, in ``artifacts``, what it keeps at mlflow-artifacts:/…"""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="session")
def server(mlflow_home, quiet_environment):
    """Its address; artifacts go through it, as on a team's server."""
    port, log = free_port(), mlflow_home / "log"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{mlflow_home / 'mlflow.db'}"),
        *("--artifacts-destination", str(mlflow_home / "artifacts"), "--host", "127.0.0.1"),
        *("--port", str(port), "--workers", "1"),
    ]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=quiet_environment, cwd=mlflow_home,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)
