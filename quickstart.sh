#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0

# From nothing to a picture: installs, makes phantoms, pre-trains, fine-tunes, evaluates and infers; see --help.

set -euo pipefail

ROOT="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
name=msd_spleen_unet
output="$PWD/quickstart_output"
dataset_dir=""
unlabelled_dirs=""
modalities=""
learning_rate=""
fold=""
install=yes

usage() {
    cat <<'TEXT'
Usage: ./quickstart.sh [--bundle NAME] [--dataset-dir DIR] [--unlabelled-dirs DIR] [--modalities LIST]
                       [--fold N|standard|all] [--output DIR] [--no-install] [--help]

Pre-trains a small network by HybridMIM, fine-tunes it, evaluates it on held-out cases, segments new images, and ends with a
table, overview.png and report.html. The held-out cases choose the best epoch. Without --dataset-dir it does so on phantoms that it makes: CT-like abdomens or MR-like
brains; the hippocampus bundles download their data set of real patients (27 MB) instead. Each step is the bundle's own
config, shrunk by overrides. A step that is done is not done again: remove --output for that.

  --bundle NAME          brats2020, btcv, msd_hippocampus, msd_liver or msd_spleen, then _unet or _swinunetr;
                         msd_hippocampus and msd_spleen also with _dynunet
                         (default msd_spleen_unet)
  --dataset-dir DIR      your data set, in the layout that the bundle's docs/README.md names
  --unlabelled-dirs DIR  your folder of unlabelled scans
  --modalities LIST      brats2020: the sequences that you have, such as flair,t1ce
  --fold N|standard|all  which fold is held out (default: the bundle's); 'all' for a single labelled case
  --output DIR           where everything is written (default ./quickstart_output)
  --no-install           use the `python` on PATH as it is
TEXT
}

while [ $# -gt 0 ]; do
    case "$1" in
        --bundle | --dataset-dir | --unlabelled-dirs | --modalities | --fold | --output)
            [ $# -ge 2 ] || { echo "quickstart: $1 needs a value" >&2; exit 2; }
            case "$1" in
                --bundle) name="$2" ;;
                --modalities) modalities="$2" ;;
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

bundle="$ROOT/bundles/hybridmim_${name}_segmentation"
if [ ! -d "$bundle" ]; then
    known="$(cd -- "$ROOT/bundles" && printf '%s\n' hybridmim_*_segmentation | sed 's/^hybridmim_//; s/_segmentation$//' | tr '\n' ' ')"
    echo "quickstart: --bundle must be one of ${known% }, got $name" >&2
    exit 2
fi
dataset="${name%_*}"

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
image_dir=""
if [ -z "$dataset_dir" ] && [ "$dataset" = msd_hippocampus ]; then
    dataset_dir="$output/Task04_Hippocampus"
    [ -d "$dataset_dir" ] || python -m hybridmim_components download msd_hippocampus "$output"
    title="HybridMIM on MSD Hippocampus"
fi
if [ -z "$dataset_dir" ]; then
    title="HybridMIM quickstart on phantoms (synthetic, no patient data)"
    folders="$(python -m hybridmim_components phantoms "$output/phantoms" --dataset "$dataset")"
    echo "$folders"
    { read -r dataset_dir && read -r image_dir && read -r phantom_unlabelled; } <<<"$folders"
    unlabelled_dirs="${unlabelled_dirs:-$phantom_unlabelled}"
elif [ -d "$dataset_dir/imagesTs" ]; then
    image_dir="$dataset_dir/imagesTs"
fi

# step NAME CONFIG ARGUMENT...: runs a config of the bundle, unless the same command has succeeded before.
# When a step runs, those after it run again too.
rerun=no
step() {
    local name="$1" config="$2" log="$output/$1.log" done_file="$output/.$1.done"
    shift 2
    local command=(python -m monai.bundle run --config_file "$config" --bundle_root "$bundle"
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

# What makes a network, a crop and a schedule small enough for two CPU cores.
# The hippocampus bundles are small as they are; of MSD's many patients few have labels here, as in a hospital.
case "$name" in
    msd_hippocampus_*)
        small=()
        pretrain=(--epochs 16 --steps_per_epoch 100 --val_interval 4)
        train=(--epochs 8 --steps_per_epoch 50 --val_interval 4)
        labelled="$(find "$dataset_dir/labelsTr" -name '[!.]*.nii*' 2>/dev/null | wc -l || true)"
        if [ "$labelled" -ge 100 ]; then
            train+=(--label_fraction 0.05)
            echo "quickstart: fine-tuning uses the labels of a twentieth of the training cases ($labelled cases have labels)"
        fi
        ;;
    *)
        small=(--roi_size "[64,64,32]" --spacing "[4,4,4]")
        pretrain=(--batch_size 4 --crops_per_volume 2 --epochs 15 --steps_per_epoch 20 --val_interval 3)
        train=(--batch_size 2 --crops_per_volume 1 --epochs 16 --steps_per_epoch 20 --val_interval 4)
        ;;
esac
case "$name" in
    msd_hippocampus_*) ;;
    *_dynunet) small+=(--network_def#filters "[8,16,32,64,64]") learning_rate=0.002 ;;
    *_unet) small+=(--network_def#features "[8,8,16,32,64,8]") learning_rate=0.002 ;;
    *_swinunetr) small+=(--network_def#feature_size 12 --network_def#depths "[1,1,1,1]") learning_rate=0.001 ;;
esac
small+=(--num_workers 0)
[ -z "$modalities" ] || modalities=(--modalities "['$(sed "s/,/','/g" <<<"$modalities")']")
small+=(${modalities[@]:+"${modalities[@]}"})
[ -z "$fold" ] || fold=(--fold "$fold")
both=("${small[@]}" ${fold[@]:+"${fold[@]}"} --cache memory ${learning_rate:+--learning_rate "$learning_rate"})
configs="$bundle/configs"
step pretrain "$configs/pretrain.json" "${both[@]}" "${pretrain[@]}" --unlabelled_dirs "$unlabelled_dirs"
step train "$configs/train.json" "${both[@]}" "${train[@]}" --pretrained "$output/models/pretrained/model.pt"
step evaluate "['$configs/train.json','$configs/evaluate.json']" "${small[@]}" ${fold[@]:+"${fold[@]}"}
if [ -n "$image_dir" ]; then
    step inference "$configs/inference.json" "${small[@]}" --image_dir "$image_dir"
else
    echo "quickstart: no imagesTs in $dataset_dir: nothing to infer on"
fi

printf '\n'
python -m hybridmim_components overview "$output" --dataset_dir "$dataset_dir" --dataset "$dataset" --title "$title" \
    ${modalities[@]:+"${modalities[@]}"}
python -m hybridmim_components report "$output" --title "$title" >/dev/null
printf '%-52s%s\n' "page with volumes and figures" "$output/report.html"
echo "quickstart: $((SECONDS - started)) s after installation"
