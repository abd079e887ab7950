"""`hf://datasets/ORG/NAME@REVISION/path`: files of a dataset on the hub, at one commit.

Source: the hub's HTTP API (api/datasets/…/revision, api/datasets/…/tree) and its /resolve/ URLs.
"""

import re
from dataclasses import replace
from urllib.parse import quote

from data_downloader.names import has_data_extension
from data_downloader.sources import Source
from data_downloader.web import Web
from tuning.errors import ConfigurationError, InputNotFound

_URL = re.compile(r"^hf://datasets/(?P<dataset>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[^/]+))?(?:/(?P<path>.*))?$")


def resolve_hub(source: Source, web: Web, endpoint: str) -> list[tuple[Source, str]]:
    """The files that `source` names, each with the URL of its bytes at the commit that the revision means now.

    A path that ends in `/`, or none, means every data file below it. Raises ConfigurationError for a malformed URL,
    InputNotFound where there is no such file.
    """
    match = _URL.match(source.url)
    if not match:
        raise ConfigurationError(
            f"{source.shown} is not a dataset of the hub", hint="write hf://datasets/ORG/NAME@REVISION/path"
        )
    dataset, path = match["dataset"], match["path"] or ""
    api = f"{endpoint}/api/datasets/{dataset}"
    commit = web.get_json(source, f"{api}/revision/{quote(match['revision'] or 'main', safe='')}")["sha"]

    def url(file: str) -> str:
        return f"{endpoint}/datasets/{dataset}/resolve/{commit}/{quote(file)}"

    if path and not path.endswith("/"):
        return [(source, url(path))]
    entries = web.get_json(source, f"{api}/tree/{commit}/{quote(path.rstrip('/'))}?recursive=true")
    files = sorted(entry["path"] for entry in entries if entry["type"] == "file" and has_data_extension(entry["path"]))
    if not files:
        raise InputNotFound(f"{source.shown} has no dataset file", hint="name the file itself")
    root = source.url.partition(dataset)[0] + dataset + (f"@{match['revision']}" if match["revision"] else "")
    return [(replace(source, url=f"{root}/{file}"), url(file)) for file in files]
