"""The Hugging Face Hub: the only file that imports huggingface_hub, and only inside of functions.

Its own environment says where the cache is (``HF_HOME``), who asks (``HF_TOKEN``, or ``hf auth login``), which
server (``HF_ENDPOINT``), and that nothing may leave this machine (``HF_HUB_OFFLINE``). If the server cannot be
reached, what its cache has is taken: the digest of the bytes decides.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote

from expunge.contracts import shorten
from expunge.errors import BadInput, ExpungeError
from expunge.settings import Workspace
from expunge.stores.addresses import shown

ANSWER_SECONDS = 10  # to say what a file is; its download has a limit of its own, HF_HUB_DOWNLOAD_TIMEOUT

_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_ADDRESS = re.compile(rf"hf://(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>[^/?#]+))?/(?P<path>[^/?#]|[^/?#][^?#]*[^/?#])")


def fetch_with(uri: str, names: Callable[[Path], Iterable[str]], workspace: Workspace) -> Path:
    """Fetches a file and what stands beside it in its repository; returns the folder in the cache that has them.

    `names` is asked what else is wanted, of the folder as it is so far, until there is nothing new. What the repository
    does not have is left out. Raises as `fetch`.
    """
    folder, asked = fetch(uri, Path(), workspace).parent, {uri.rpartition("/")[2]}
    while wanted := set(names(folder)) - asked:
        asked |= wanted
        for name in sorted(wanted):
            with suppress(_NoSuchFile):
                _fetch(f"{uri.rpartition('/')[0]}/{name}")
    return folder


def fetch(uri: str, folder: Path, workspace: Workspace) -> Path:
    """Fetches the file of ``hf://owner/name[@revision]/path/in/repo`` through the Hub's cache; returns its place.

    Raises:
        BadInput: the URI is none, there is no such file, or it may not be seen with this token.
        ExpungeError: the server cannot be reached, and the cache does not have the file.
    """
    try:
        return _fetch(uri)
    except _NoSuchFile as error:
        raise BadInput(error.problem, error.remedy) from None


class _NoSuchFile(BadInput):
    """A repository that can be seen does not have the file."""


def _fetch(uri: str) -> Path:
    found = _ADDRESS.fullmatch(uri)
    if found is None or ".." in found["path"].split("/"):
        raise BadInput(f"{shorten(shown(uri))}: names no file of a repository",
                       "write hf://owner/name/path/in/repo, or hf://owner/name@revision/path/in/repo")
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ImportError:
        raise BadInput("hf:// needs a package that is not installed", "pip install 'expunge[hub]'") from None

    repo, path, name = found["repo"], found["path"], shorten(shown(uri))
    revision = unquote(found["revision"]) if found["revision"] else None  # refs%2Fpr%2F1
    try:
        with _quietly():
            unreachable = _why_not_reached(hub.hf_hub_url(repo, path, revision=revision))
            return Path(hub.hf_hub_download(repo, path, revision=revision, local_files_only=bool(unreachable)))
    except errors.GatedRepoError:
        raise BadInput(f"{name}: access denied", "ask for access on the Hub's page of it, then set HF_TOKEN") from None
    except (errors.RepositoryNotFoundError, errors.DisabledRepoError):
        raise BadInput(f"{name}: no repository '{repo}' can be seen",
                       "check its name; a private one needs HF_TOKEN") from None
    except errors.RevisionNotFoundError:
        raise BadInput(f"{name}: no revision '{shorten(str(revision))}'", "check the branch, tag or commit") from None
    except errors.LocalEntryNotFoundError:
        if hub.try_to_load_from_cache(repo, path, revision=revision) is hub._CACHED_NO_EXIST:
            raise _NoSuchFile(f"{name}: no such file in '{repo}'", "check the path") from None
        if hub.is_offline_mode():
            raise BadInput(f"{name}: is not in the local cache, and HF_HUB_OFFLINE forbids to ask for it",
                           "unset HF_HUB_OFFLINE, or check HF_HOME") from None
        raise ExpungeError(f"{name}: the Hub {unreachable}, and the local cache does not have it",
                           "check the network and HF_ENDPOINT, then run the same command again") from None
    except errors.EntryNotFoundError:
        raise _NoSuchFile(f"{name}: no such file in '{repo}'", "check the path") from None
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        if code in (401, 403):
            raise BadInput(f"{name}: the Hub does not accept the token", "check HF_TOKEN") from None
        raise ExpungeError(f"{name}: the Hub answers {code}", "run the same command again later") from None
    except ValueError:  # what its client will not ask for
        raise BadInput(f"{name}: is no file of a repository", "check owner, name and path") from None
    except OSError:
        raise  # of this machine: a full disk, a cache that may not be written
    except Exception as error:
        raise ExpungeError(f"{name}: cannot be fetched from the Hub ({type(error).__name__})",
                           "check the network and HF_ENDPOINT, then run the same command again") from error


def _why_not_reached(url: str) -> str:
    """Asks once what a file is, and says why there was no answer; empty if there was. Refusals are raised.

    The client's own patience with a silent server is six minutes.
    """
    from huggingface_hub import errors, get_hf_file_metadata

    try:
        get_hf_file_metadata(url, timeout=ANSWER_SECONDS)
    except errors.HfHubHTTPError as error:
        if error.response.status_code < 500:
            raise
        return f"answers {error.response.status_code}"
    except Exception as error:  # noqa: BLE001 - of the HTTP library, or an answer that no Hub gives
        return f"cannot be reached ({type(error).__name__})"
    return ""


@contextmanager
def _quietly() -> Iterator[None]:
    """No progress bars, and no log lines: they hold the signed URLs of downloads."""
    from huggingface_hub.utils import disable_progress_bars

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with disable_progress_bars():
            yield
    finally:
        logger.setLevel(level)
