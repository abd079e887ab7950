# The trainer with a base model inside. `trainer` and `weights` are named contexts, see docker-bake.hcl.
FROM trainer
COPY --from=weights --chown=0:0 . /workspace/tfs/weights/
