"""Reading from object stores, through obstore.

Beside the clients below fsspec it takes a third of the CPU time a request and a tenth of that a listed key, and CPU
time is what the model wants. Credentials and endpoints are found as fsspec's clients find them: by
``--storage-options`` under their names, else by the usual environment.
"""

import functools
import json
import os
import re
import urllib.parse
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, ObjectStore, S3Store

from grepr_core.web.access import OWN_OPTIONS, with_lower_scheme
from pipelines.stores.s3_options import S3Options

SCHEMES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
#: fsspec's names of options, and obstore's.
_GCS_OPTIONS = {"token": "service_account"}
_AZURE_OPTIONS = {"anon": "skip_signature", "sas_token": "sas_key"}
#: Parts of an Azure connection string, and obstore's names.
_CONNECTION_STRING = {
    "AccountName": "account_name",
    "AccountKey": "account_key",
    "BlobEndpoint": "endpoint",
    "SharedAccessSignature": "sas_key",
}
#: What fsspec's clients take to tune themselves or is for the web, and has no meaning here.
_TUNING = OWN_OPTIONS | {
    *("project", "use_listings_cache", "asynchronous", "headers", "cookies"),
}
#: What a store may raise when it is opened, listed or read; ImportError is of a driver that fsspec looks for.
STORE_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, BaseError, BotoCoreError, ImportError)


def is_object_store(url: str) -> bool:
    """Tells whether a URL is read through this module."""
    return urllib.parse.urlsplit(url).scheme in SCHEMES if "://" in url else False


def open_store(url: str, storage_options: Mapping[str, Any], *, timeout: float) -> tuple[ObjectStore, str]:
    """Opens the store that an object or prefix is in.

    Args:
        url: Of an object or prefix, not percent-encoded.
        storage_options: As fsspec takes them, or under obstore's names.
        timeout: Seconds that one request may take. Throttling, server errors and lost connections are tried again,
            with exponential backoff and jitter, for three times as long.

    Returns:
        The store, one for each bucket, and the key in it.

    Raises:
        OSError: The process is a fork of one that has opened a store.
    """
    if _fork.is_of_reader:
        raise OSError("a process forked from one that has read an object store cannot read any; start it by 'spawn'")
    scheme, rest = with_lower_scheme(url).split("://", 1)
    bucket, _, key = rest.partition("/")
    options = json.dumps(storage_options, sort_keys=True, default=str)
    return _open(scheme, bucket, options, timeout), key


def reason(error: BaseException) -> str:
    """Gives what a store said, in one line, without the request and the trace that the client puts around it."""
    text = str(error)
    said = re.search(r"<Message>(.*?)</Message>", text, re.DOTALL)
    return said[1] if said else text.partition("\n")[0] or type(error).__name__


@functools.lru_cache(maxsize=64)
def _open(scheme: str, bucket: str, options_json: str, timeout: float) -> ObjectStore:
    options = {name: value for name, value in json.loads(options_json).items() if name not in _TUNING}
    common: dict[str, Any] = {
        "client_options": {"timeout": timedelta(seconds=timeout), "allow_http": True},
        "retry_config": {"max_retries": 10, "retry_timeout": timedelta(seconds=3 * timeout)},
    }
    match scheme:
        case "s3" | "s3a":
            return _s3_store(bucket, options, common)
        case "gs" | "gcs":
            return GCSStore(bucket, config=_gcs_config(options), **common)
        case _:
            container, _, host = bucket.partition("@")
            return AzureStore(container, config=_azure_config(options, host), **common)


class _Fork:
    """Whether this process is a fork of one with a store open, whose threads obstore would wait for without end."""

    def __init__(self) -> None:
        self.is_of_reader = False
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self.is_of_reader |= _open.cache_info().currsize > 0


_fork = _Fork()


def _gcs_config(options: dict[str, Any]) -> Any:  # noqa: ANN401 - a typed dictionary of obstore
    endpoint = options.pop("endpoint_url", None) or os.environ.get("STORAGE_EMULATOR_HOST")
    config = {_GCS_OPTIONS.get(name, name): value for name, value in options.items()}
    if endpoint:
        # The client takes another address in a key file only.
        key = {"gcs_base_url": endpoint, "disable_oauth": True, "client_email": "", "private_key": ""}
        return {"service_account_key": json.dumps({**key, "private_key_id": ""})}
    if config.get("service_account") == "anon":
        del config["service_account"]
        config["skip_signature"] = True
    return config


def _azure_config(options: dict[str, Any], host: str) -> Any:  # noqa: ANN401 - a typed dictionary of obstore
    text = options.pop("connection_string", None)
    if text is None and not options:
        text = os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
    config = {_AZURE_OPTIONS.get(name, name): value for name, value in options.items()}
    if text:
        parts = dict(part.partition("=")[::2] for part in text.split(";") if part)
        config |= {ours: parts[theirs] for theirs, ours in _CONNECTION_STRING.items() if theirs in parts}
        if "EndpointSuffix" in parts and "endpoint" not in config:
            config["endpoint"] = f"https://{parts['AccountName']}.blob.{parts['EndpointSuffix']}"
    if host:
        config["account_name"] = host.partition(".")[0]
    return config


def _s3_store(bucket: str, options: dict[str, Any], common: dict[str, Any]) -> S3Store:
    given = S3Options.of(options)
    session = botocore.session.Session(profile=given.profile)
    config: Any = given.config
    by_client = given.service.pop("region_name", None)
    region = config.pop("region", None) or by_client or session.get_config_variable("region")
    s3 = session.create_client(
        "s3",
        region_name=region or "us-east-1",
        config=Config(signature_version=botocore.UNSIGNED) if config.get("skip_signature") else None,
        **given.service,
    )
    endpoint = s3.meta.endpoint_url
    if ".amazonaws.com" not in endpoint or endpoint.startswith("http:"):
        config["endpoint"] = endpoint
    elif region is None:
        region = _bucket_region(s3, bucket)
    if "access_key_id" not in config and not config.get("skip_signature"):
        common = {**common, "credential_provider": _CredentialProvider(session)}
    config["region"] = region or "us-east-1"
    common["client_options"] = {**common["client_options"], **given.client}
    return S3Store(bucket, config=config, **common)


def _bucket_region(s3: Any, bucket: str) -> str | None:  # noqa: ANN401 - clients of botocore are made at runtime
    """Asks where a bucket is; S3 tells even those who may not read it."""
    try:
        response = s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        response = error.response
    region: str | None = response["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
    return region


class _CredentialProvider:
    """Finds AWS credentials as every AWS tool does: environment, profiles, single sign-on, roles of the machine."""

    def __init__(self, session: botocore.session.Session) -> None:
        self._session = session

    def __call__(self) -> dict[str, Any]:
        credentials = self._session.get_credentials()
        if credentials is None:
            raise PermissionError(
                "no AWS credentials; set AWS_PROFILE or AWS_ACCESS_KEY_ID, or anon for a public bucket"
            )
        frozen = credentials.get_frozen_credentials()
        # Botocore renews what expires when it is asked for; asking every few minutes costs nothing.
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=5),
        }
