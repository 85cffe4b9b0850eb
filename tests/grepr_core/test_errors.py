import pytest

from grepr_core.errors import Unavailable, UserError, without_secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:SECRET@host:8443/a?b=c", "https://***@host:8443/a?b=c"),
        ("https://me:SECRET@home@host/", "https://***@host/"),
        ("https://SECRET@host/", "https://***@host/"),
        ("sftp://me:SECRET@host/a", "sftp://***@host/a"),
        (
            "https://host/a.jpg?X-Amz-Credential=SECRET&X-Amz-Date=1&X-Amz-Signature=SECRET",
            "https://host/a.jpg?X-Amz-Credential=***&X-Amz-Date=1&X-Amz-Signature=***",
        ),
        ("https://box/a?sv=1&sig=SECRET%3D: no such file", "https://box/a?sv=1&sig=*** no such file"),
        ("'https://host/a?access_token=SECRET' and more", "'https://host/a?access_token=***' and more"),
    ],
)
def test_secrets_of_urls_stay_out_of_messages(url: str, shown: str):
    assert without_secrets(url) == str(UserError(url)) == str(Unavailable(url)) == shown


@pytest.mark.parametrize(
    "text", ["abfss://container@account.dfs.core.windows.net/a", "https://host/@me/a?page=2", "/photos/a@b?key", "a: b"]
)
def test_what_is_no_secret_stays(text: str):
    assert without_secrets(text) == text
