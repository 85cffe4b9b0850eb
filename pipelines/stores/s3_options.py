"""What fsspec's options for S3 mean to obstore. Those it has no means for are refused: ignored, they would do harm."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: fsspec's names of options, and obstore's.
_NAMES = {
    "key": "access_key_id",
    "secret": "secret_access_key",
    "token": "session_token",
    "anon": "skip_signature",
    "requester_pays": "request_payer",
}
_CREDENTIALS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
#: Of s3_additional_kwargs, those of requests that write, which fsspec makes.
_OF_WRITING = frozenset(
    {"ACL", "BucketKeyEnabled", "CacheControl", "ChecksumAlgorithm", "ContentDisposition", "ContentEncoding"}
    | {"ContentLanguage", "ContentType", "Expires", "Metadata", "SSEKMSEncryptionContext", "SSEKMSKeyId"}
    | {"ServerSideEncryption", "StorageClass", "Tagging"}
)
#: Of config_kwargs, those that tune a client which is not used here, or name what is usual.
_TUNING = frozenset(
    {"connect_timeout", "max_pool_connections", "parameter_validation", "read_timeout", "retries", "signature_version"}
    | {"tcp_keepalive", "user_agent", "user_agent_extra"}
)


@dataclass
class S3Options:
    """Options as they are passed on.

    Attributes:
        config: Of obstore's store.
        client: Of obstore's client.
        service: Of botocore's client, which finds the endpoint.
        profile: Of the AWS configuration.
    """

    config: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    service: dict[str, Any] = field(default_factory=dict)
    profile: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "S3Options":
        """Takes them from fsspec's.

        Args:
            options: Those of fsspec, or of obstore under its names.

        Returns:
            The options. obstore itself refuses those whose names it does not know.

        Raises:
            ValueError: Names one that would be ignored.
        """
        found = cls()
        for name, value in options.items():
            match name:
                case "profile":
                    found.profile = value
                case "endpoint_url" | "use_ssl":
                    found.service[name] = value
                case "client_kwargs":
                    found._take_each(name, value, found._take_client)
                case "config_kwargs":
                    found._take_each(name, value, found._take_config)
                case "s3_additional_kwargs":
                    found._take_each(name, value, found._take_of_requests)
                case _:
                    found.config[_NAMES.get(name, name)] = value
        return found

    def _take_each(self, group: str, values: Mapping[str, Any] | None, take: Callable[[str, Any], bool]) -> None:
        if odd := [name for name, value in (values or {}).items() if value is not None and not take(name, value)]:
            raise ValueError(f"--storage-options: {group} holds {_named(odd)}, which would be ignored; leave it out")

    def _take_client(self, name: str, value: Any) -> bool:  # noqa: ANN401 - JSON is any value
        if name in ("endpoint_url", "region_name", "use_ssl"):
            self.service.setdefault(name, value)
        elif name in _CREDENTIALS:
            self.config[_CREDENTIALS[name]] = value
        elif name == "verify" and isinstance(value, str):
            self.client["root_certificate"] = Path(value).read_bytes()
        elif name == "verify":
            self.client["allow_invalid_certificates"] = not value
        else:
            return name in ("headers", "cookies")  # of the web
        return True

    def _take_config(self, name: str, value: Any) -> bool:  # noqa: ANN401
        if name == "region_name":
            self.service.setdefault(name, value)
        elif name == "proxies":
            self.client["proxy_url"] = value.get("https") or value.get("http")
        elif name == "s3" and set(value) <= {"addressing_style"}:
            self.config["virtual_hosted_style_request"] = value.get("addressing_style") == "virtual"
        else:
            return name in _TUNING
        return True

    def _take_of_requests(self, name: str, value: Any) -> bool:  # noqa: ANN401
        if name == "RequestPayer":
            self.config["request_payer"] = value == "requester"
            return True
        return name in _OF_WRITING


def _named(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
