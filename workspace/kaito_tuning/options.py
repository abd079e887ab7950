"""What a Job is given that no Workspace says: images, limits, secrets of the site."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Images:
    """Where the images come from: `registry`/data-downloader:`tag` and so on."""

    registry: str = "ghcr.io/kaito-tuning"
    tag: str = "0.1.0"

    def of(self, name: str) -> str:
        """The reference of the image `name`."""
        return f"{self.registry}/{name}:{self.tag}"


@dataclass(frozen=True)
class Options:
    """How to render. Without any, the Job is what the Workspace says."""

    images: Images = Images()
    # GPUs of a node, where the instance type does not tell or is not known.
    gpus: int | None = None
    # Memory of the trainer, as a quantity of Kubernetes.
    memory: str = ""
    # Seconds after which Kubernetes ends the Job, and after which it removes a finished one.
    deadline_seconds: int | None = None
    ttl_seconds: int | None = None
    # A LocalQueue of Kueue, which then decides when the Job starts.
    queue: str = ""
    # A Secret with a token for each host that the dataset's URLs name.
    data_secret: str = ""
    # The base model's folder: a claim of a volume, or an image that Kubernetes mounts (1.33).
    weights_claim: str = ""
    weights_image: str = ""
    # A ConfigMap with the key ca.crt: the certificates of a private authority.
    ca_configmap: str = ""
    # Let the Workspace own what is rendered; needs the uid that it has in the cluster.
    owned: bool = False
    revision: int = 1
    # The paths and the command line of the original's controller.
    kaito: bool = False
