"""How the training libraries behave in a pod: no progress bars, no notices to their developers."""

import logging
import warnings

import datasets
import transformers


def quiet_libraries() -> None:
    """Turn off what makes a pod's log unreadable: bars are endless lines, notices are about no choice of a user."""
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)
    # On a CPU without its optional kernels bitsandbytes says so at every import.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
