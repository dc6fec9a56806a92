#!/usr/bin/env bash
# Copyright 2026 HybridMIM bundles contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

# From nothing to a picture: installs, makes phantoms, pre-trains, fine-tunes, evaluates and infers; see --help.

set -euo pipefail

ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
bundle=hybridmim_msd_spleen_unet_segmentation
output="$PWD/quickstart_output"
dataset_dir=""
unlabelled_dirs=""
fold=0
install=yes

usage() {
    cat <<'TEXT'
Usage: ./quickstart.sh [--dataset-dir DIR] [--unlabelled-dirs DIR] [--fold N|all] [--output DIR] [--no-install] [--help]

Pre-trains a small UNet by HybridMIM, fine-tunes it, evaluates it on cases that it has not seen, segments new images, and
ends with a table and overview.png. Without --dataset-dir it does so on phantoms that it makes: CT-like abdomens. Each
step is the bundle's own config, shrunk by overrides. A step that is done is not done again: remove --output for that.

  --dataset-dir DIR      your data set in the layout of MSD Task09 (imagesTr, labelsTr, imagesTs)
  --unlabelled-dirs DIR  your folder of unlabelled CTs (.nii.gz, .nii, .mhd, .nrrd, or .dcm series)
  --fold N|all           which fold is held out (default 0); 'all' for fewer than 5 labelled cases
  --output DIR           where everything is written (default ./quickstart_output)
  --no-install           use the `python` on PATH as it is
TEXT
}

while [ $# -gt 0 ]; do
    case "$1" in
        --dataset-dir | --unlabelled-dirs | --fold | --output)
            [ $# -ge 2 ] || { echo "quickstart: $1 needs a value" >&2; exit 2; }
            case "$1" in
                --dataset-dir) dataset_dir="$2" ;;
                --unlabelled-dirs) unlabelled_dirs="$2" ;;
                --fold) fold="$2" ;;
                --output) output="$2" ;;
            esac
            shift
            ;;
        --no-install) install=no ;;
        -h | --help) usage; exit 0 ;;
        *) echo "quickstart: unknown argument: $1" >&2; usage >&2; exit 2 ;;
    esac
    shift
done

# absolute PATH: a path that holds from any working directory, whether it exists or not.
absolute() {
    case "$1" in /*) printf '%s\n' "$1" ;; *) printf '%s\n' "$PWD/$1" ;; esac
}
output="$(absolute "$output")"
[ -z "$dataset_dir" ] || dataset_dir="$(absolute "$dataset_dir")"
[ -z "$unlabelled_dirs" ] || unlabelled_dirs="$(absolute "$unlabelled_dirs")"
mkdir -p -- "$output"

if [ "$install" = yes ]; then
    # shellcheck source=ci/python_env.sh
    (cd -- "$ROOT" && source ci/python_env.sh && hybridmim_python_env requirements.lock)
    venv="${HYBRIDMIM_VENV:-.venv}"
    case "$venv" in /*) ;; *) venv="$ROOT/$venv" ;; esac
    export PATH="$venv/bin:$PATH"
fi

started=$SECONDS
title="HybridMIM on $dataset_dir"
if [ -z "$dataset_dir" ]; then
    title="HybridMIM quickstart on phantoms (synthetic, no patient data)"
    python -m hybridmim_components phantoms "$output/phantoms"
    dataset_dir="$output/phantoms/Task09_Spleen"
    unlabelled_dirs="${unlabelled_dirs:-$output/phantoms/unlabelled}"
fi

# step NAME CONFIG ARGUMENT...: runs a config of the bundle, unless the same command has succeeded before.
# When a step runs, those after it run again too.
rerun=no
step() {
    local name="$1" config="$2" log="$output/$1.log" done_file="$output/.$1.done"
    shift 2
    local command=(python -m monai.bundle run --config_file "$config" --bundle_root "$ROOT/bundles/$bundle"
        --dataset_dir "$dataset_dir" --output_dir "$output/$name" --ckpt_dir "$output/models" "$@")
    if [ "$rerun" = no ] && [ -f "$done_file" ] && [ "$(cat -- "$done_file")" = "${command[*]}" ]; then
        echo "quickstart: $name is done already"
        return
    fi
    rerun=yes
    rm -f -- "$done_file"
    printf '\nquickstart: %s\n  %s\n' "$name" "${command[*]}"
    if ! "${command[@]}" >"$log" 2>&1; then
        tail -n 5 -- "$log" >&2
        echo "quickstart: $name failed; the whole log is $log" >&2
        exit 1
    fi
    printf '%s\n' "${command[*]}" >"$done_file"
}

configs="$ROOT/bundles/$bundle/configs"
small=(--spacing "[4,4,4]" --roi_size "[48,48,48]" --network_def#features "[8,8,16,32,64,8]" --num_workers 0)
train=("${small[@]}" --fold "$fold" --cache memory --learning_rate 0.002)
step pretrain "$configs/pretrain.json" "${train[@]}" --subvolume_size "[16,16,16]" --patch_size "[8,8,8]" \
    --unlabelled_dirs "$unlabelled_dirs" --batch_size 4 --crops_per_volume 2 --epochs 12 --val_interval 2
step train "$configs/train.json" "${train[@]}" --pretrained "$output/models/pretrained/model.pt" \
    --batch_size 2 --crops_per_volume 1 --epochs 36 --val_interval 6
step evaluate "['$configs/train.json','$configs/evaluate.json']" "${small[@]}" --fold "$fold"
if [ -d "$dataset_dir/imagesTs" ]; then
    step inference "$configs/inference.json" "${small[@]}"
else
    echo "quickstart: no imagesTs in $dataset_dir: nothing to infer on"
fi

printf '\n'
python -m hybridmim_components overview "$output" --dataset_dir "$dataset_dir" --title "$title"
echo "quickstart: $((SECONDS - started)) s after installation"
