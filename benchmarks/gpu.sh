#!/usr/bin/env bash
# Every comparison of speed on one GPU: AutoAttack and PGD-20 on a ResNet-18 against pyautoattack and torchattacks, a
# PGD-10 training step against the public way, and corruptions. Tables, with the card's name and peak memory, go to OUT.
#
#     benchmarks/gpu.sh [OUT]                  about half an hour; each part ends within 8 minutes
#     REHEARSE=1 benchmarks/gpu.sh [OUT]       the same parts on the processor with a few images
#
# Run it in an environment with advdpnp's extra "dev", from anywhere. A part that fails does not stop the others.
set -uo pipefail
out=$(realpath -m "${1:-results/gpu}")
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python}
if [[ -n ${REHEARSE:-} ]]; then
    # One thread: beside other programs, threads that wait for each other turn seconds into minutes.
    device=cpu threads=(--threads 1) net=tiny-resnet eps=(--eps 0.3) few=8 many=16 corruption=(--images 16 --theirs 8)
    training=(--architecture small-cnn --batch 16 --steps 1 --repeats 1 --no-compile)
else
    "$python" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "torch sees no GPU; try REHEARSE=1")' || exit 2
    device=cuda threads=() net=resnet18 eps=() few=256 many=10000 corruption=(--images 10000 --theirs 200)
    training=(--architecture resnet18 --batch 256 --steps 5 --repeats 3)
fi
failed=0
part() {
    echo "== $1"
    timeout "${LIMIT:-480}" "$python" -m "${@:2}" "${threads[@]}" && return
    echo "$1: failed, or took more than ${LIMIT:-480} seconds" >&2
    failed=1
}
part autoattack benchmarks.attacks --nets $net "${eps[@]}" --samples $few --repeats 1 --device $device --no-stages --out "$out/autoattack.csv"
part pgd benchmarks.attacks --nets $net --attack pgd-20 --samples $many --repeats 1 --device $device --no-stages --out "$out/pgd-20.csv"
part training benchmarks.training --parts step --device $device "${training[@]}" --out "$out/training.csv"
part corruptions benchmarks.corruptions "${corruption[@]}" --repeats 1 --out "$out/corruptions.csv"
exit $failed
