"""Where the volumes of a pod are on this machine: folders below the work folder, or the user's own."""

import shutil
from pathlib import Path

from kaito_tuning.job import Rendered
from kaito_tuning.local import Local
from kaito_tuning.pod import CERTIFICATES_KEY, CERTIFICATES_VOLUME, DOCKER_CONFIG_VOLUME, WEIGHTS_VOLUME, Manifest
from tuning.errors import ConfigurationError, InputNotFound


class Volumes:
    """The folder of each volume of the pod of `rendered`, made as a kubelet would: empty, or with what belongs in it.

    Raises ConfigurationError or InputNotFound for what this machine has nothing for.
    """

    def __init__(self, rendered: Rendered, local: Local) -> None:
        self.pod: Manifest = rendered.job["spec"]["template"]["spec"]
        self.work = local.work.absolute()
        self.work.mkdir(parents=True, exist_ok=True)
        (self.work / "termination").mkdir(exist_ok=True)
        self._local = local
        self.folders = {volume["name"]: self._folder(volume, rendered) for volume in self.pod["volumes"]}

    def termination_message(self, container: str) -> Path:
        """Where `container` leaves its last sentence; none is there yet."""
        path = self.work / "termination" / container
        path.unlink(missing_ok=True)
        return path

    def _folder(self, volume: Manifest, rendered: Rendered) -> Path:
        if "hostPath" in volume:
            return Path(volume["hostPath"]["path"])
        folder = self.work / str(volume["name"])
        if volume["name"] == CERTIFICATES_VOLUME:
            return self._certificates(volume, folder)
        if volume["name"] == WEIGHTS_VOLUME:
            if self._local.weights is None:
                raise InputNotFound("the base model is not at hand", hint="give --weights, the model's folder")
            return self._local.weights.absolute()
        if "configMap" in volume:
            if rendered.configmap is None:
                raise ConfigurationError(
                    f"the ConfigMap {volume['configMap']['name']} is not at hand",
                    hint="write it into the Workspace's file, as a second document",
                )
            folder.mkdir(exist_ok=True)
            for key, text in rendered.configmap["data"].items():
                (folder / key).write_text(text)
        elif volume["name"] == DOCKER_CONFIG_VOLUME:
            if self._local.docker_config is None or not (self._local.docker_config / "config.json").is_file():
                raise InputNotFound(
                    f"the push secret {volume['secret']['secretName']} is not at hand",
                    hint="give --docker-config, a folder with a config.json",
                )
            return self._local.docker_config.absolute()
        elif "emptyDir" in volume:
            # As the kubelet would: every pod starts with an empty one.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        else:
            raise ConfigurationError(
                f"the volume {volume['name']} cannot be used on this machine", hint="use a hostPath"
            )
        return folder

    def _certificates(self, volume: Manifest, folder: Path) -> Path:
        if self._local.certificates is None:
            raise InputNotFound(
                f"the ConfigMap {volume['configMap']['name']} is not at hand", hint="give --ca, a file of certificates"
            )
        folder.mkdir(exist_ok=True)
        shutil.copyfile(self._local.certificates, folder / CERTIFICATES_KEY)
        return folder
