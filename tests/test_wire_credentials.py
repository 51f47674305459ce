"""The file of keys: what it may hold, how it must be guarded, and what each key may do."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamstore.wire.credentials import AccessKey, CredentialsError, load_credentials
from streamstore.wire.denial import Denial, DeniedError

ACTIONS: Final = ("PutRecord", "PutRecords", "GetRecords", "DescribeStream", "ListStreams", "DeleteStream")
SECRET: Final = "0123456789abcdef"
MINIMAL: Final = f'[keys.AKID]\nsecret_access_key = "{SECRET}"\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def loaded(path: Path, text: str) -> AccessKey:
    """Return the only key of a file with this text."""
    write(path, text)
    (key,) = load_credentials(path, ACTIONS).values()
    return key


def sentence(path: Path) -> str:
    """Return what is said of a file that cannot be used."""
    with pytest.raises(CredentialsError) as error:
        load_credentials(path, ACTIONS)
    text = str(error.value)
    assert str(path) in text
    assert text.endswith(".")
    assert "\n" not in text
    return text


def may(key: AccessKey, action: str, stream_name: str | None = None) -> bool:
    try:
        key.check_action(action, stream_name)
    except DeniedError as error:
        denied = error
    else:
        return True
    assert denied.denial is Denial.NOT_ALLOWED
    assert key.secret_access_key not in denied.message
    assert action in denied.message
    return False


def test_a_key_without_more_may_do_everything(path: Path) -> None:
    key = loaded(path, MINIMAL)
    assert key == AccessKey("AKID", SECRET)
    assert all(may(key, action, "clicks") for action in ACTIONS)
    assert may(key, "ListStreams")


def test_every_member_of_a_key_is_read(path: Path) -> None:
    key = loaded(
        path,
        MINIMAL + 'streams = ["clicks", "orders-*"]\nactions = ["Put*"]\nread_only = true\n'
        'session_token = "fedcba9876543210"\nexpires = 2030-01-01T02:00:00+02:00\n',
    )
    assert key == AccessKey(
        "AKID",
        SECRET,
        streams=("clicks", "orders-*"),
        actions=("Put*",),
        read_only=True,
        session_token="fedcba9876543210",
        expires=datetime(2030, 1, 1, tzinfo=UTC),
    )


def test_a_key_may_use_only_the_streams_that_it_names() -> None:
    key = AccessKey("AKID", SECRET, streams=("clicks", "orders-*"))
    assert may(key, "PutRecord", "clicks")
    assert may(key, "PutRecord", "orders-")
    assert may(key, "PutRecord", "orders-7")
    assert not may(key, "PutRecord", "Clicks")
    assert not may(key, "PutRecord", "clicks2")
    assert not may(key, "ListStreams")


def test_a_key_may_do_only_what_it_names() -> None:
    key = AccessKey("AKID", SECRET, actions=("Put*", "DescribeStream"))
    assert may(key, "PutRecord", "clicks")
    assert may(key, "DescribeStream", "clicks")
    assert not may(key, "GetRecords", "clicks")
    assert not may(key, "DescribeStreamSummary", "clicks")


def test_a_key_that_reads_only_changes_nothing_even_if_it_names_the_action() -> None:
    key = AccessKey("AKID", SECRET, actions=("*", "PutRecord"), read_only=True)
    assert may(key, "GetRecords", "clicks")
    assert may(key, "SubscribeToShard", "clicks")
    assert not may(key, "PutRecord", "clicks")
    assert not may(key, "RegisterStreamConsumer", "clicks")


def test_a_key_that_is_shown_shows_no_secret() -> None:
    assert SECRET not in repr(AccessKey("AKID", SECRET, session_token=SECRET))


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o620, 0o602, 0o601, 0o666])
def test_a_file_that_others_may_see_or_write_is_refused(path: Path, mode: int) -> None:
    write(path, MINIMAL, mode)
    assert f"its mode is {mode:03o}" in sentence(path)
    assert "chmod 600" in sentence(path)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_file_that_only_its_owner_and_perhaps_its_group_read_is_taken(path: Path, mode: int) -> None:
    write(path, MINIMAL, mode)
    assert load_credentials(path, ACTIONS)


def test_what_is_no_file_is_refused(path: Path) -> None:
    assert "No such file" in sentence(path)
    path.mkdir()
    assert "directory" in sentence(path)


def test_a_pipe_is_refused_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    try:
        assert "regular file" in sentence(path)
    finally:
        os.close(writer)


def test_a_slip_of_the_pen_is_told_with_its_line(path: Path) -> None:
    write(path, MINIMAL + "read_only = yes\n")
    assert "line 3" in sentence(path)
    write(path, MINIMAL + MINIMAL)
    assert "line 3" in sentence(path)
    path.write_bytes(b"\xff")
    assert "no TOML" in sentence(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "keys must be a table"),
        ("keys = 3", "keys must be a table"),
        ("[keys]", "at least one table [keys.ID]"),
        ("[keys]\nAKID = 3", "keys.AKID must be a table"),
        (MINIMAL + "[other]", "has no member 'other'"),
        (MINIMAL + "stream = []", "keys.AKID has no member 'stream', only secret_access_key, streams,"),
        ('[keys."a b"]\n', "an id must have"),
        ("[keys.AKID]\n", "keys.AKID.secret_access_key must be a text of at least 16"),
        ("[keys.AKID]\nsecret_access_key = 1234567890123456", "keys.AKID.secret_access_key must be"),
        (MINIMAL.replace(SECRET, "tooshort"), "keys.AKID.secret_access_key must be"),
        (MINIMAL.replace(SECRET, SECRET + " "), "keys.AKID.secret_access_key must be"),
        (MINIMAL + 'session_token = "short"', "keys.AKID.session_token must be"),
        (MINIMAL + "streams = []", "keys.AKID.streams must be a list of one or more"),
        (MINIMAL + 'streams = "clicks"', "keys.AKID.streams must be a list"),
        (MINIMAL + "streams = [3]", "keys.AKID.streams must be a list"),
        (MINIMAL + 'streams = [""]', "keys.AKID.streams must be a list"),
        (MINIMAL + 'actions = ["PutRecrod"]', "'PutRecrod' must be or match an action"),
        (MINIMAL + 'actions = ["Put*", "put*"]', "'put*' must be or match an action"),
        (MINIMAL + "read_only = 1", "keys.AKID.read_only must be true or false"),
        (MINIMAL + "expires = 2030-01-01", "keys.AKID.expires must be a time with its offset"),
        (MINIMAL + "expires = 2030-01-01T00:00:00", "keys.AKID.expires must be a time with its offset"),
        (MINIMAL + 'expires = "2030-01-01T00:00:00Z"', "keys.AKID.expires must be a time with its offset"),
        ("#" * 1_048_577, "at most 1048576 bytes"),
    ],
)
def test_a_file_that_breaks_a_rule_says_which_and_where(path: Path, text: str, words: str) -> None:
    write(path, text)
    assert words in sentence(path)
    assert SECRET not in sentence(path)
    assert "tooshort" not in sentence(path)


@given(content=st.binary() | st.text().map(lambda text: (MINIMAL + text).encode()))
def test_whatever_is_in_the_file_is_keys_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("garbage") / "keys.toml"
    path.touch(0o600)
    path.write_bytes(content)
    said = ""
    try:
        assert load_credentials(path, ACTIONS)
    except CredentialsError as error:
        said = str(error)
    assert SECRET not in said
