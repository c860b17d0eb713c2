#!/usr/bin/env bash
# The verdicts of this folder, with CIFAR-10 where ADVDPNP_DATA says, and the public weights in the folder $1 (or without these nets).
set -euo pipefail
cd "$(dirname "$0")/.."
run() { .venv/bin/advdpnp eval --dataset cifar10 "$@"; }
small=$(ls results/checkpoints/cifar10-*-s0.safetensors | grep -v -e resnet18 -e tiny-resnet -e ed-wta)
tiny=$(ls results/checkpoints/cifar10-tiny-resnet-*.safetensors)
run --attacks all --corruption-types all --limit 1000 $small --out results/cifar10
run --attacks fgsm,pgd-20,cw,autoattack --corruptions auto --corruption-types all --limit 1000 $tiny --out results/cifar10-tiny-resnet
run --attacks pgd-20 --corruptions none --limit 300 $small $(printf -- '--transfer-from %s ' $small) --out results/cifar10-transfer
if [ $# = 1 ]; then
  nets=$(while read -r net file; do echo "--model benchmarks.public_models:$net --weights $1/$file"; done <<< "resnet20 resnet20-12fca82f.th
cifar_cnn_a cifar_cnn_a_adv.model
resnet2b resnet2b.pth
cifar_wide cifar_wide.pth")
  run $nets --attacks none --out results/cifar10-public
  run $nets --attacks none --corruptions auto --corruption-types all --limit 2000 --out results/cifar10-public
  run $nets --attacks fgsm,pgd-20,pgd-40,cw,autoattack --corruptions none --eps 2/255 --limit 200 --out results/cifar10-public
fi
