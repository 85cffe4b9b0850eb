"""What grepr submit checks and hands over, before a cluster is spoken to."""

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from unittest.mock import Mock

import pytest

from grepr_core.errors import Unavailable, UserError
from jobs.cli import parse
from jobs.job_client import connect
from jobs.submit import check_places, check_secrets, run, runtime_env
from pipelines.options import SubmitOptions


@pytest.mark.parametrize(
    ("command", "refused"),
    [
        (["score", "photos/", "s3://scores/all"], "photos/"),
        (["score", "s3://lake/", "scores"], "scores"),
        (["score", "s3://lake/", "s3://scores/all", "--since", "yesterday"], "yesterday"),
        (["score", "s3://lake/", "s3://scores/all", "--model", "my-model"], "my-model"),
        (["nightly", "s3://lake/", "nights"], "nights"),
        (["fit", "ratings.csv", "--images", "s3://lake/", "--output", "s3://models/mine"], "ratings.csv"),
        (["pretrain", "low", "photos", "--output", "s3://models/low"], "photos"),
        (["model", "build", "--low", "my-model", "--output", "s3://models/base"], "my-model"),
    ],
)
def test_paths_of_this_folder_mean_nothing_there(
    command: Sequence[str], refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").mkdir()
    with pytest.raises(UserError, match=f"^{refused}: a path from this folder"):
        check_places(parse(command))


def test_a_file_system_that_every_node_has_is_asked_for(caplog: pytest.LogCaptureFixture, tmp_path: Path):
    check_places(parse(["score", "/mnt/lake", "file:///mnt/scores", "--model", "s3://models/mine"]))
    assert "/mnt/lake, file:///mnt/scores: has to be the same on every node" in caplog.text
    check_places(parse(["score", "s3://lake/", "s3://scores/all", "--model", str(tmp_path)]))
    assert f"{tmp_path}: has to be the same on every node" in caplog.text


def test_urls_and_names_pass(caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grepr-lite").mkdir()  # the shipped one is taken before it
    check_places(parse(["score", "s3://lake/", "gs://scores/all", "--model", "grepr-lite"]))
    high = ["--high", "open_clip:RN50-quickgelu", "--pretrained", "openai"]
    check_places(parse(["model", "build", "--low", "grepr-lite", *high, "--output", "s3://models/clip"]))
    assert not caplog.records


@pytest.mark.parametrize(
    "storage",
    [
        {"key": "A", "secret": "B"},
        {"client_kwargs": {"aws_secret_access_key": "B"}},
        {"token": "B"},
        {"connection_string": "B"},
        {"password": "B"},
        {"headers": {"Authorization": "B"}},
        {"cookies": {"session": "B"}},
    ],
)
def test_secrets_are_kept_off_the_command_line(storage: dict[str, object]):
    command = parse(["score", "s3://lake/", "s3://scores/all", "--storage-options", json.dumps(storage)])
    with pytest.raises(UserError, match="readable in the log") as refusal:
        check_secrets(command)
    assert "'B'" not in str(refusal.value)


@pytest.mark.parametrize("source", ["https://me:SECRET@lake/", "https://lake/photos.csv?sig=SECRET"])
def test_urls_with_secrets_are_kept_off_it_too(source: str):
    with pytest.raises(UserError, match="readable in the log") as refusal:
        check_secrets(parse(["score", source, "s3://scores/all"]))
    assert "SECRET" not in str(refusal.value)


def test_storage_options_without_secrets_pass():
    storage = json.dumps({"anon": True, "client_kwargs": {"endpoint_url": "http://store:9000"}})
    check_secrets(parse(["score", "s3://lake/", "s3://scores/all", "--storage-options", storage]))
    check_secrets(parse(["score", "https://lake/photos.csv?author=anna", "s3://scores/all"]))


def options(**changes: str) -> SubmitOptions:
    return SubmitOptions(command=("score", "s3://a", "s3://b"), address="http://head:8265", **changes)


def test_only_the_variables_that_are_named_are_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "mine too")
    assert runtime_env(options())["env_vars"] == {}
    path = tmp_path / "env.yaml"
    path.write_text("env_vars: {OMP_NUM_THREADS: '1'}\npy_modules: [s3://code/mine.zip]\npip: [nothing]\n")
    environment = runtime_env(options(runtime_env=str(path), env="AWS_ACCESS_KEY_ID"))
    assert environment["env_vars"] == {"OMP_NUM_THREADS": "1", "AWS_ACCESS_KEY_ID": "mine"}
    assert environment["pip"] == ["nothing"]
    names = [Path(module).name for module in environment["py_modules"]]
    assert names[:5] == ["mine.zip", "grepr", "grepr_core", "pipelines", "jobs"]
    with pytest.raises(UserError, match="--env NOT_SET_ANYWHERE"):
        runtime_env(options(env="NOT_SET_ANYWHERE"))


@pytest.mark.parametrize(("content", "message"), [("- a", "no mapping"), ("{", "neither YAML"), (None, "No such file")])
def test_a_runtime_environment_that_is_none(content: str | None, message: str, tmp_path: Path):
    path = tmp_path / "env.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as refusal:
        runtime_env(options(runtime_env=str(path)))
    assert str(path) in str(refusal.value)


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is not to be switched to the user's token."""
    monkeypatch.setattr("jobs.job_client.maybe_enable_token_auth_if_token_available", lambda warn_if_disabled: False)


def test_a_job_server_that_is_away_is_no_wrong_usage(caplog: pytest.LogCaptureFixture):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = "http://{}:{}".format(*server.getsockname())
    with pytest.raises(Unavailable, match="no Ray job server answers there"):
        run(SubmitOptions(address=address, submission_id="monday", follow=True), None)
    assert "trying again" not in caplog.text


@pytest.fixture
def failing(request: pytest.FixtureRequest) -> Iterator[str]:
    """Address of a job server whose first answers, as many as asked for, are given ones: bytes, then an end."""
    answers = list(request.param)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.pop() if answers else b'HTTP/1.0 200 OK\r\n\r\n{"ray_version": "2.60.0"}'
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


CUT = b"HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\n{"
AWAY = b"HTTP/1.0 503 Service Unavailable\r\n\r\n"


def test_a_connection_that_is_reset_while_it_is_made_is_made_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jobs.job_client.RETRY_SECONDS", (0, 0, 0))
    refused, reset = (Mock(side_effect=error) for error in (ConnectionRefusedError(111, "no"), ConnectionResetError()))
    for connecting, calls in ((refused, 1), (reset, 4)):
        monkeypatch.setattr("urllib3.util.connection.create_connection", connecting)
        with pytest.raises(Unavailable):
            connect("http://127.0.0.1:8265")
        assert connecting.call_count == calls


@pytest.mark.parametrize("failing", [(b"",), (b"", b""), (AWAY,), (CUT,)], indirect=True)
def test_a_connection_that_breaks_at_first_is_made_again(
    failing: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("jobs.job_client.RETRY_SECONDS", (0, 0))
    assert connect(failing).get_address() == failing
    assert "the job server does not answer" in caplog.text


@pytest.mark.parametrize(
    ("failing", "tries"),
    [((b"",) * 3, 2), ((b"HTTP/1.0 500 Wrong\r\n\r\n",), 0), ((b"SSH-2.0-OpenSSH_9.6\r\n",), 0)],
    indirect=["failing"],
)
def test_a_server_that_stays_unwell_is_given_up(
    failing: str, tries: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("jobs.job_client.RETRY_SECONDS", (0, 0))
    with pytest.raises(Unavailable, match="no Ray job server answers there"):
        connect(failing)
    assert caplog.text.count("trying again") == tries


@pytest.mark.parametrize("error", [RuntimeError("Version check returned 404."), KeyError("ray_version")])
def test_what_answers_is_no_job_server(error: Exception, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jobs.job_client.JobClient", Mock(side_effect=error))
    with pytest.raises(Unavailable, match="http://head:8265: what answers there is no Ray job server"):
        run(SubmitOptions(address="http://head:8265", submission_id="monday", follow=True), None)


def test_a_job_server_that_is_lost_is_no_wrong_usage(monkeypatch: pytest.MonkeyPatch):
    client = Mock()
    monkeypatch.setattr("jobs.submit.connect", lambda address: client)
    monkeypatch.setattr("jobs.submit.RETRY_SECONDS", ())
    client.find.side_effect = OSError("gone")
    monkeypatch.setattr("jobs.job_log.PATIENCE_SECONDS", -1.0)
    with pytest.raises(Unavailable, match=r"lost, while monday may run on: gone\. Follow it: grepr submit"):
        run(SubmitOptions(address="http://head:8265", submission_id="monday", follow=True), None)
    client.submit_job.side_effect = OSError("gone")
    with pytest.raises(Unavailable, match="the job could not be handed over: gone"):
        run(options(), parse(["score", "s3://a", "s3://b"]))
