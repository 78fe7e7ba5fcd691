"""Whether the model hub can be reached: one bounded probe."""

import functools
import queue
import threading
from typing import Literal

PROBE_SECONDS = 3.0


@functools.cache
def probe(name: str, kind: Literal["model", "dataset"] = "model") -> str:
    """Ask the hub whether it has a model or dataset; wait `PROBE_SECONDS` at most.

    The result is cached for the process.

    Returns:
        `"there"`, or a clause that says what is the matter.
    """
    from huggingface_hub import HfApi, is_offline_mode
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if is_offline_mode():
        return "offline mode is set"

    def ask() -> str:
        try:
            HfApi().repo_info(name, repo_type=kind, timeout=PROBE_SECONDS)
        except GatedRepoError:
            return "the hub wants a login for it"
        except RepositoryNotFoundError:
            return "the hub does not have it"
        except HfHubHTTPError as error:
            return f"the hub answered {error.response.status_code}"
        except Exception as error:  # whatever the HTTP client raises, the hub is not usable
            return f"the hub cannot be reached: {type(error).__name__}"
        return "there"

    # A thread, because the client's time limit covers neither name look-up nor a slow drip.
    answers: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: answers.put(ask()), daemon=True).start()
    try:
        return answers.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        return f"the hub gave no answer within {PROBE_SECONDS:.0f} seconds"
