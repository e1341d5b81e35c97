"""Passwords in URLs of storages: masked wherever something is kept or said, and the right ones where one connects."""

import pytest
from sqlalchemy import make_url

from l2o.errors import UserError
from meta import credentials
from meta.credentials import VARIABLE, complete, split, without, without_password

SECRET = "p@ss:w/o#r?d%&+é "
ENCODED = "p%40ss%3Aw%2Fo%23r%3Fd%25%26%2B%C3%A9%20"
URLS = {  # what is kept of a URL, with {} where its passwords stand
    "postgresql://me:{}@host/studies": "postgresql://me:***@host/studies",
    "postgresql+psycopg2://me@server:{}@host:5432/studies": "postgresql+psycopg2://me@server:***@host:5432/studies",
    "mysql://:{}@[::1]/studies?charset=utf8": "mysql://:***@[::1]/studies?charset=utf8",
    "postgresql://host/studies?user=me&password={}": "postgresql://host/studies?user=me&password=***",
    "postgresql://host/studies?PASSWORD={}&user=me": "postgresql://host/studies?PASSWORD=***&user=me",
    "mysql://me:{}@host/studies?passwd={}": "mysql://me:***@host/studies?passwd=***",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BPWD%3D{}%3BSERVER%3Dh":
        "mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BPWD%3D***%3BSERVER%3Dh",
}  # fmt: skip
PLAIN = ["sqlite:///optuna.db", "sqlite:////home/me@work/a:b@c/optuna.db", "postgresql://me@host/studies", "nonsense"]


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    credentials._asked.cache_clear()


@pytest.mark.parametrize("url", URLS)
def test_passwords_are_masked_and_put_back(url, monkeypatch):
    whole = url.replace("{}", ENCODED)
    kept, passwords = split(whole)
    assert kept == URLS[url] == without_password(whole) and set(passwords) == {ENCODED}
    assert complete(kept, passwords) == whole
    assert split(kept) == (kept, ())
    with pytest.raises(UserError, match=VARIABLE) as refused:
        complete(kept, ())
    assert kept in str(refused.value)
    monkeypatch.setenv(VARIABLE, SECRET)
    assert complete(kept, ()) == whole


@pytest.mark.parametrize("url", PLAIN)
def test_urls_without_passwords_are_as_they_were(url):
    assert split(url) == (url, ()) and complete(url, ()) == url and without_password(url) == url


def test_a_user_gets_the_password_of_the_environment(monkeypatch):
    monkeypatch.setenv(VARIABLE, SECRET)
    found = make_url(complete("postgresql://me@host/studies", ()))
    assert found.password == SECRET and (found.username, found.host, found.database) == ("me", "host", "studies")
    assert complete("sqlite:///optuna.db", ()) == "sqlite:///optuna.db"
    given = make_url(complete(*split("postgresql://me:own@host/studies")))
    assert given.password == "own"


def test_a_password_is_asked_for_once_on_a_terminal(monkeypatch):
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: asked.append(prompt) or SECRET)
    for _ in range(2):
        assert make_url(complete("postgresql://me:***@host/studies", ())).password == SECRET
    assert asked == ["password of postgresql://me:***@host/studies: "]


def test_an_at_sign_in_a_password_is_refused_without_it():
    with pytest.raises(ValueError, match="expected %40") as refused:
        split("postgresql://me:top@secret@host/studies")
    assert "secret" not in str(refused.value)


def test_texts_of_others():
    assert without("user 'me' with p%40ss: no p@ss, at pass", ("p%40ss",)) == "user 'me' with ***: no ***, at pass"
    assert without("cannot", ("a",)) == "cannot"
    assert without_password("--set=source.url=mysql://me:a b@c@host/x") == "--set=source.url=mysql://me:***@host/x"
