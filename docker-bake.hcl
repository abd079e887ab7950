# The images, built together: `docker buildx bake`. `shared` is a named context of each.
#   docker buildx bake                        the three images
#   docker buildx bake control                the controller, for clusters without Kaito's own
#   docker buildx bake trainer-cpu            the trainer for a laptop; needs torch's CPU wheel in WHEELS
#   WEIGHTS=DIR docker buildx bake trainer-phi-4   a trainer with the weights in DIR/phi-4 baked in

variable "REGISTRY" { default = "ghcr.io/kaito-tuning" }
variable "TAG" { default = "0.1.0" }
variable "PYTHON_IMAGE" { default = "python:3.12-slim" }
# The small images run on both; the trainer's GPU libraries are for amd64.
variable "PLATFORMS" { default = "linux/amd64,linux/arm64" }
variable "REVISION" { default = "" }
variable "WHEELS" { default = "./wheels" }
variable "WEIGHTS" { default = "./weights" }
# A cache that outlives the builder, as type=registry,ref=…
variable "CACHE_FROM" { default = "" }
variable "CACHE_TO" { default = "" }

group "default" { targets = ["data-downloader", "trainer", "pusher"] }
group "control" { targets = ["controller"] }

function "tags" {
  params = [name]
  result = ["${REGISTRY}/${name}:${TAG}"]
}

target "_common" {
  contexts = { shared = "./shared" }
  args     = { PYTHON_IMAGE = PYTHON_IMAGE }
  labels = {
    "org.opencontainers.image.source"   = "https://github.com/kaito-tuning/kaito-tuning"
    "org.opencontainers.image.revision" = REVISION
    "org.opencontainers.image.version"  = TAG
    "org.opencontainers.image.licenses" = "Apache-2.0"
  }
  attest     = ["type=provenance,mode=max", "type=sbom"]
  cache-from = CACHE_FROM != "" ? [CACHE_FROM] : []
  cache-to   = CACHE_TO != "" ? [CACHE_TO] : []
}

target "image" {
  name      = image
  inherits  = ["_common"]
  matrix    = { image = ["data-downloader", "trainer", "pusher"] }
  context   = "./images/${image}"
  tags      = tags(image)
  platforms = image == "trainer" ? ["linux/amd64"] : split(",", PLATFORMS)
}

target "controller" {
  inherits  = ["_common"]
  context   = "./images/controller"
  contexts  = { workspace = "./workspace" }
  tags      = tags("controller")
  platforms = split(",", PLATFORMS)
}

target "trainer-cpu" {
  inherits = ["trainer"]
  contexts = { wheels = WHEELS }
  args     = { TORCH_VARIANT = "cpu" }
  tags     = ["${REGISTRY}/trainer:${TAG}-cpu"]
}

# Base models whose weights a site bakes in; one name for each preset that a Job expects an image of.
target "preset" {
  name = "trainer-${replace(preset, ".", "-")}"
  matrix = {
    preset = [
      "falcon-7b", "falcon-7b-instruct", "falcon-40b", "falcon-40b-instruct", "mistral-7b", "mistral-7b-instruct",
      "phi-2", "phi-3-mini-4k-instruct", "phi-3-mini-128k-instruct", "phi-3-medium-4k-instruct",
      "phi-3-medium-128k-instruct", "phi-3.5-mini-instruct", "phi-4", "phi-4-mini-instruct",
      "qwen2.5-coder-7b-instruct", "qwen2.5-coder-32b-instruct", "llama-3.1-8b-instruct", "llama-3.2-1b-instruct",
      "llama-3.2-3b-instruct", "llama-3.3-70b-instruct", "qwen3-0.6b", "qwen3-4b", "qwen3-8b", "qwen3-14b",
      "qwen3-32b", "gemma-3-1b-it", "gpt-oss-20b",
    ]
  }
  inherits   = ["_common"]
  context    = "./images/trainer"
  dockerfile = "weights.Dockerfile"
  contexts   = { trainer = "target:trainer", weights = "${WEIGHTS}/${preset}" }
  tags       = tags("trainer-${preset}")
  platforms  = ["linux/amd64"]
}
