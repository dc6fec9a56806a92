#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Segments an image with MONAI Deploy's own operators; see --help.

set -euo pipefail

HERE="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
ROOT="$(dirname -- "$(dirname -- "$HERE")")"

usage() {
    cat <<'TEXT'
Usage: ci/monai_deploy/run.sh MODEL OUTPUT IMAGE [IMAGE...]
       ci/monai_deploy/run.sh --install-only

Makes an environment for monai-deploy-app-sdk 4.0.0 and segments one image with a bundle's TorchScript file, by the SDK's
MonaiBundleInferenceOperator, on the CPU if need be. The mask lies on the image's grid, as OUTPUT/NAME_seg.nii.gz. Only
the installation needs the internet.

  MODEL           model.ts, as python -m hybridmim_components export BUNDLE --format torchscript writes it
  OUTPUT          folder for the mask
  IMAGE           NIfTI file; for MRI of several sequences a 4D file, or one file for each in the bundle's order
                  (flair t1 t1ce t2); or a folder that holds one DICOM series of a bundle with one channel
  --install-only  make the environment and stop

Environment:
  HYBRIDMIM_DEPLOY_VENV  the environment's folder (default .venv-monai-deploy in the repository)
  HYBRIDMIM_PYTHON       the interpreter to make it with, a Python 3.11 (default python3.11)
TEXT
}

case "${1:-}" in
    -h | --help) usage; exit 0 ;;
    --install-only) ;;
    *)
        if [ $# -lt 3 ]; then
            echo "run: error: name MODEL, OUTPUT and IMAGE" >&2
            usage >&2
            exit 2
        fi
        ;;
esac

export HYBRIDMIM_VENV="${HYBRIDMIM_DEPLOY_VENV:-.venv-monai-deploy}"
# shellcheck source=ci/python_env.sh
source "$ROOT/ci/python_env.sh"
if ! hybridmim_python_env ci/monai_deploy/requirements.lock; then
    echo "run: error: the installation failed (see above)" >&2
    exit 1
fi
[ "$1" != --install-only ] || exit 0

# Holoscan, which the SDK runs on, may crash with less
ulimit -s 32768 2>/dev/null || echo "run: could not raise the stack to 32 MB (ulimit -s), which holoscan asks for" >&2
export HOLOSCAN_LOG_LEVEL="${HOLOSCAN_LOG_LEVEL:-WARN}"
exec python "$HERE/segment.py" "$@"
