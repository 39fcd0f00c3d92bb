"""The Hugging Face Hub: the only file that imports huggingface_hub, and only inside of functions.

Its own environment says where the cache is (``HF_HOME``), who asks (``HF_TOKEN``, or ``hf auth login``), which
server (``HF_ENDPOINT``), and that nothing may leave this machine (``HF_HUB_OFFLINE``). If the server cannot be
reached, what its cache has is taken: the digest of the bytes decides.
"""

import re
from pathlib import Path
from urllib.parse import unquote

from expunge.contracts import shorten
from expunge.errors import BadInput, ExpungeError
from expunge.settings import Workspace
from expunge.stores.addresses import shown

ANSWER_SECONDS = 10  # to say what a file is; its download has a limit of its own, HF_HUB_DOWNLOAD_TIMEOUT

_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_ADDRESS = re.compile(rf"hf://(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>[^/?#]+))?/(?P<path>[^?#]*[^/?#])")


def fetch(uri: str, folder: Path, workspace: Workspace) -> Path:
    """Fetches the file of ``hf://owner/name[@revision]/path/in/repo`` through the Hub's cache; returns its place.

    Raises:
        BadInput: the URI is none, there is no such file, or it may not be seen with this token.
        ExpungeError: the server cannot be reached, and the cache does not have the file.
    """
    found = _ADDRESS.fullmatch(uri)
    if found is None or ".." in found["path"].split("/"):
        raise BadInput(f"{shorten(shown(uri))}: names no file of a repository",
                       "write hf://owner/name/path/in/repo, or hf://owner/name@revision/path/in/repo")
    try:
        from huggingface_hub import errors, hf_hub_download
        from huggingface_hub.utils import disable_progress_bars
    except ImportError:
        raise BadInput("hf:// needs a package that is not installed", "pip install 'expunge[hub]'") from None

    repo, path, name = found["repo"], found["path"], shorten(shown(uri))
    revision = unquote(found["revision"]) if found["revision"] else None  # refs%2Fpr%2F1
    try:
        with disable_progress_bars():
            return Path(hf_hub_download(repo, path, revision=revision, etag_timeout=ANSWER_SECONDS))
    except errors.HFValidationError:
        raise BadInput(f"{name}: '{repo}' is no name of a repository", "write owner/name") from None
    except errors.GatedRepoError:
        raise BadInput(f"{name}: access denied", "ask for access on the Hub's page of it, then set HF_TOKEN") from None
    except (errors.RepositoryNotFoundError, errors.DisabledRepoError):
        raise BadInput(f"{name}: no repository '{repo}' can be seen",
                       "check its name; a private one needs HF_TOKEN") from None
    except errors.RevisionNotFoundError:
        raise BadInput(f"{name}: no revision '{shorten(str(revision))}'", "check the branch, tag or commit") from None
    except errors.LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, errors.OfflineModeIsEnabled):
            raise BadInput(f"{name}: is not in the local cache, and HF_HUB_OFFLINE forbids to ask for it",
                           "unset HF_HUB_OFFLINE, or check HF_HOME") from None
        raise ExpungeError(f"{name}: the Hub cannot be reached, and the local cache does not have it",
                           "check the network and HF_ENDPOINT, then run the same command again") from None
    except errors.EntryNotFoundError:
        raise BadInput(f"{name}: no such file in '{repo}'", "check the path") from None
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        if code in (401, 403):
            raise BadInput(f"{name}: the Hub does not accept the token", "check HF_TOKEN") from None
        raise ExpungeError(f"{name}: the Hub answers {code}", "run the same command again later") from None
    except OSError:
        raise  # of this machine: a full disk, a cache that may not be written
    except Exception as error:
        raise ExpungeError(f"{name}: cannot be fetched from the Hub ({type(error).__name__})",
                           "check the network and HF_ENDPOINT, then run the same command again") from error
