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
        (
            "https://host/a?AWSAccessKeyId=SECRET&Signature=SECRET&Expires=1",
            "https://host/a?AWSAccessKeyId=***&Signature=***&Expires=1",
        ),
        ("https://host/a?api_key=SECRET&apikey=SECRET&page=1", "https://host/a?api_key=***&apikey=***&page=1"),
        (
            "https://host/a?X-Goog-Credential=SECRET&X-Amz-Security-Token=SECRET",
            "https://host/a?X-Goog-Credential=***&X-Amz-Security-Token=***",
        ),
        (
            "https://host/a?key=SECRET&client_secret=SECRET&password=SECRET",
            "https://host/a?key=***&client_secret=***&password=***",
        ),
        ("hdfs://me:SECRET@host/a", "hdfs://***@host/a"),
        ("s3://KEY:SECRET@bucket/a and more", "s3://***@bucket/a and more"),
        ("simplecache::S3://KEY:SECRET@bucket/a", "simplecache::S3://***@bucket/a"),
        ("'https://host/a?access_token=SECRET' and more", "'https://host/a?access_token=***' and more"),
    ],
)
def test_secrets_of_urls_stay_out_of_messages(url: str, shown: str):
    assert without_secrets(url) == str(UserError(url)) == str(Unavailable(url)) == shown


@pytest.mark.parametrize(
    "text",
    ["abfss://container@account.dfs.core.windows.net/a", "https://host/@me/a?page=2", "/photos/a@b?key", "a: b"]
    + [
        f"https://host/a?{name}=anna"
        for name in ("author", "authority", "design", "keyword", "monkey", "X-Amz-Date", "sort-key", "code")
    ]
    + ["s3://bucket/a:b@c.jpg", "abfs://box@account/a", "http://[::1]:80/a@b"],
)
def test_what_is_no_secret_stays(text: str):
    assert without_secrets(text) == text
