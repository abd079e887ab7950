# The images, built together: `docker buildx bake`. `shared` is a named context of each.

variable "REGISTRY" { default = "ghcr.io/kaito-tuning" }
variable "TAG" { default = "0.1.0" }
variable "PYTHON_IMAGE" { default = "python:3.12-slim" }

group "default" { targets = ["data-downloader", "trainer", "pusher"] }

target "_common" {
  contexts = { shared = "./shared" }
  args     = { PYTHON_IMAGE = PYTHON_IMAGE }
}

target "image" {
  name     = image
  inherits = ["_common"]
  matrix   = { image = ["data-downloader", "trainer", "pusher"] }
  context  = "./images/${image}"
  tags     = ["${REGISTRY}/${image}:${TAG}"]
}
