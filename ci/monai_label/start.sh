#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# Serves bundles to annotators with MONAI Label, without the internet; see --help.

set -euo pipefail

HERE="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
ROOT="$(dirname -- "$(dirname -- "$HERE")")"
MONAILABEL=0.8.5
bundles=""
studies=""
models_dir=""
app=monai_label_app
host=127.0.0.1
port=8000
install=yes

usage() {
    cat <<'TEXT'
Usage: ci/monai_label/start.sh --bundles NAME[,NAME...] --studies DIR [--models-dir DIR] [--app DIR]
                               [--host ADDRESS] [--port NUMBER] [--no-install] [--help]
       ci/monai_label/start.sh --install-only

Makes an environment for MONAI Label 0.8.5, copies the bundles into its app, and serves them: 3D Slicer, OHIF and other
clients of MONAI Label connect to http://ADDRESS:NUMBER. Only the installation needs the internet. Ctrl-C stops it.

  --bundles NAME,...  such as msd_spleen_unet,brats2020_unet, or folders of bundles (of exported ones, too)
  --studies DIR       the images: .nii, .nii.gz or .nrrd files, one per case (MRI of several sequences: 4D). The server
                      writes the labels to DIR/labels and its index to DIR. Training takes all labels there: train
                      bundles for different images or labels from different folders
  --models-dir DIR    where a bundle has no models/model.pt: DIR/NAME.pt or DIR/NAME/model.pt; for one bundle DIR/model.pt
  --app DIR           holds the copies of the bundles, retrained weights, logs (default ./monai_label_app). A bundle
                      that is in it is served as it is: remove DIR/model/<bundle> to start it afresh
  --host ADDRESS      what the server listens on (default 127.0.0.1: this computer alone). MONAI Label has no login
  --port NUMBER       (default 8000)
  --install-only      make the environment and stop
  --no-install        use the `python` on PATH as it is

Environment:
  HYBRIDMIM_LABEL_VENV  the environment's folder (default .venv-monai-label in the repository)
  HYBRIDMIM_PYTHON      the interpreter to make it with, a Python 3.11 (default python3.11)
TEXT
}

fail() {
    printf 'start: error: %s\n' "$1" >&2
    exit "${2:-1}"
}

only=""
while [ $# -gt 0 ]; do
    case "$1" in
        --bundles | --studies | --models-dir | --app | --host | --port)
            [ $# -ge 2 ] || fail "$1 needs a value" 2
            case "$1" in
                --bundles) bundles="$2" ;;
                --studies) studies="$2" ;;
                --models-dir) models_dir="${2%/}" ;;
                --app) app="$2" ;;
                --host) host="$2" ;;
                --port) port="$2" ;;
            esac
            shift
            ;;
        --install-only) only=yes ;;
        --no-install) install=no ;;
        -h | --help) usage; exit 0 ;;
        *) echo "start: error: unknown argument: $1" >&2; usage >&2; exit 2 ;;
    esac
    shift
done

# Leaves `python` as that of the environment. MONAI Label comes last and without its dependencies: see requirements.lock.
install_environment() {
    export HYBRIDMIM_VENV="${HYBRIDMIM_LABEL_VENV:-.venv-monai-label}"
    # shellcheck source=ci/python_env.sh
    source "$ROOT/ci/python_env.sh"
    hybridmim_python_env ci/monai_label/requirements.lock || return 1
    if ! python -c "import importlib.metadata as m; assert m.version('monailabel') == '$MONAILABEL'" 2>/dev/null; then
        _hybridmim_pip python --no-deps "monailabel==$MONAILABEL" || return 1
    fi
}

# find_weights NAME BUNDLE: prints the file, or says where it was looked for.
find_weights() {
    local candidate candidates=("$2/models/model.pt") folder="${2##*/}"
    if [ -n "$models_dir" ]; then
        # what is given for this start goes before what lies in the bundle
        candidates=("$models_dir/$folder.pt" "$models_dir/$folder/model.pt" "${candidates[@]}")
        [[ "$1" == */* ]] || candidates=("$models_dir/$1.pt" "$models_dir/$1/model.pt" "${candidates[@]}")
        [ "${#names[@]}" -gt 1 ] || candidates=("$models_dir/model.pt" "${candidates[@]}")
    fi
    for candidate in "${candidates[@]}"; do
        if [ -f "$candidate" ]; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    echo "start: error: bundle $1 has no weights: train it, or name a folder that holds them with --models-dir." \
        "A model.pt was looked for at:" >&2
    printf '  %s\n' "${candidates[@]}" >&2
    [ ! -f "$2/large_files.yml" ] ||
        echo "  python -m monai.bundle download_large_files --bundle_path $2 fetches them (it needs PyYAML)" >&2
    return 1
}

# copy_bundle BUNDLE WEIGHTS: configs, docs, licence and scripts, but no runs, and no second model for the annotator's list.
copy_bundle() {
    local target="$app/model/${1##*/}" part
    rm -rf -- "$target.partial"
    mkdir -p -- "$target.partial/models"
    for part in configs docs scripts LICENSE; do
        [ ! -e "$1/$part" ] || cp -R -- "$1/$part" "$target.partial/"
    done
    cp -- "$2" "$target.partial/models/model.pt"
    [ ! -f "${2%.pt}.json" ] || cp -- "${2%.pt}.json" "$target.partial/models/model.json"
    mv -- "$target.partial" "$target"
}

if [ -n "$only" ]; then
    install_environment || fail "the installation failed (see above)"
    exit 0
fi
[ -n "$bundles" ] || fail "name the bundles with --bundles (see --help)" 2
[ -n "$studies" ] || fail "name the folder of images with --studies (see --help)" 2
[ -d "$studies" ] || fail "--studies must be an existing folder, got $studies"
[ -w "$studies" ] || fail "--studies must be writable, since the labels are saved there, got $studies"
[ -z "$models_dir" ] || [ -d "$models_dir" ] || fail "--models-dir must be an existing folder, got $models_dir"
[[ "$port" =~ ^[0-9]+$ ]] && [ "$port" -ge 1 ] && [ "$port" -le 65535 ] || fail "--port must be 1 to 65535, got $port" 2

IFS=, read -r -a names <<<"$bundles"
models=""
sources=()
weights=()
for name in "${names[@]}"; do
    bundle="$ROOT/bundles/hybridmim_${name}_segmentation"
    if [[ "$name" == */* ]] || [ ! -d "$bundle" ]; then
        if [ ! -f "$name/configs/inference.json" ]; then
            known="$(cd -- "$ROOT/bundles" && printf '%s\n' hybridmim_*_segmentation | sed 's/^hybridmim_//; s/_segmentation$//' | tr '\n' ' ')"
            fail "--bundles must be names out of ${known% }, or folders of bundles, got $name" 2
        fi
        bundle="$(cd -- "$name" && pwd -P)"
    fi
    folder="${bundle##*/}"
    case ",$models," in *",$folder,"*) fail "--bundles names $folder twice" 2 ;; esac
    models="$models${models:+,}$folder"
    file=""
    if [ ! -d "$app/model/$folder" ]; then
        file="$(find_weights "$name" "$bundle")" || exit 1
    fi
    sources+=("$bundle")
    weights+=("$file")
done

if [ "$install" = yes ]; then
    install_environment || fail "the installation failed (see above)"
fi

if [ ! -f "$app/main.py" ]; then
    sample="$(python -c 'import sys; print(sys.prefix)')/monailabel/sample-apps/monaibundle"
    [ -d "$sample" ] || fail "monailabel $MONAILABEL is not installed for $(command -v python): there is no $sample"
    mkdir -p -- "$app"
    cp -R -- "$sample/." "$app/"
fi
app="$(cd -- "$app" && pwd -P)"
studies="$(cd -- "$studies" && pwd -P)"
mkdir -p -- "$app/model"
served=()
for i in "${!sources[@]}"; do
    target="$app/model/${sources[i]##*/}"
    served+=("$target")
    if [ -z "${weights[i]}" ]; then
        echo "start: serving $target as it is"
    else
        copy_bundle "${sources[i]}" "${weights[i]}"
        echo "start: copied ${sources[i]} to $target, with the weights ${weights[i]}"
    fi
done

python "$HERE/check_channels.py" "$studies" "${served[@]}" || true  # it only warns

case "$host" in
    127.* | localhost | ::1) ;;
    *)
        echo "start: WARNING: the server listens on $host and has no login: whoever reaches port $port can read the images" \
            "and change labels and weights. Put it behind a proxy that asks who they are, or use 127.0.0.1 and ssh -L" >&2
        ;;
esac
if [ "${#names[@]}" -gt 1 ]; then
    echo "start: training takes all labels in $studies, whichever bundle they were drawn for"
fi

python_path="${PYTHONPATH:-}"
if ! python -c 'import torchvision.utils' 2>/dev/null; then
    python_path="$HERE/torchvision_stub${python_path:+:$python_path}"
fi
# What MONAI Label would keep in the home folder stays in the app; an .env file of the working directory is read by it.
cd -- "$app"
# Not its launcher: that splits paths at spaces, and puts the environment's parent folder on the path.
PYTHONPATH="$python_path" MPLBACKEND="${MPLBACKEND:-Agg}" MONAI_LABEL_SESSION_PATH="${MONAI_LABEL_SESSION_PATH:-$app/sessions}" \
    exec python -m monailabel.main start_server --app "$app" --studies "$studies" --host "$host" --port "$port" \
    --conf models "$models" --conf zoo_source local --conf sam2 false --conf skip_scoring true
