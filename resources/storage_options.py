"""What a store by URL needs besides its URL: options and credentials, as deltalake and as fsspec want them.

Belongs here: `${NAME}` from the environment, the two dialects. Does not: opening anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from resources.errors import ConfigError

SECRET = re.compile(r"secret|token|password|(^|_)key$", re.IGNORECASE)
"""Names of options whose values nobody else should read."""
REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*)\}")
S3 = ("s3", "s3a")
S3FS = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "aws_session_token": "token"}


def expanded(options: Mapping[str, str]) -> dict[str, str]:
    """Options with lower-case names, `${NAME}` replaced from the environment.

    Raises ConfigError that names the option and the variable that is not set.
    """
    for option, value in options.items():
        for name in REFERENCE.findall(value):
            if name not in os.environ:
                raise ConfigError(f"storage_options.{option}: the environment variable {name} is not set")
    return {
        option.lower(): REFERENCE.sub(lambda found: os.environ[found[1]], value) for option, value in options.items()
    }


def deltalake_options(url: str, options: Mapping[str, str]) -> dict[str, str]:
    """What deltalake and polars take. On S3 a commit is a put that fails where another writer's commit is already."""
    conditional = {"aws_conditional_put": "etag"} if url.partition("://")[0] in S3 else {}
    return {**conditional, **options}


def fsspec_options(scheme: str, options: Mapping[str, str]) -> dict[str, Any]:
    """What the file system of a scheme takes; s3fs reads the rest (profiles, roles) from the environment by itself.

    Raises ConfigError for options of another scheme than S3, whose names are not known here.
    """
    if scheme not in S3:
        if options:
            raise ConfigError(
                f"storage_options: taken for s3:// alone; give {scheme}:// its credentials by the environment"
            )
        return {}
    found: dict[str, Any] = {theirs: options[ours] for ours, theirs in S3FS.items() if ours in options}
    if endpoint := endpoint_of(options):
        found["endpoint_url"] = endpoint
    if region := options.get("aws_region") or os.environ.get("AWS_REGION"):  # botocore reads AWS_DEFAULT_REGION alone
        found["client_kwargs"] = {"region_name": region}
    if options.get("aws_skip_signature") == "true":
        found["anon"] = True
    return found


def endpoint_of(options: Mapping[str, str]) -> str | None:
    """The address of an S3-compatible server; None for Amazon's own."""
    return options.get("aws_endpoint_url") or options.get("aws_endpoint") or os.environ.get("AWS_ENDPOINT_URL")
